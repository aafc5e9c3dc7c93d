import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { ModelError } from '#nano/errors';
import { FolderFiles } from '#nano/platform/node-files';
import { decodeFloats } from '#nano/tensor/dtype';
import { openCheckpoint, STAGING_BYTES } from '#nano/utils/checkpoint';
import { MemoryFiles, safetensorsFile } from './helpers/memory-files';

const golden = (name: string) => FolderFiles.open(new URL(`goldens/${name}`, import.meta.url).pathname);

const shard = (name: string, dtype = 'F32') =>
  safetensorsFile(
    { [name]: { dtype, shape: [3, 2], data_offsets: [0, 24] } },
    Uint8Array.from({ length: 24 }, (_, i) => i),
  );

const index = (weightMap: unknown) => JSON.stringify({ metadata: { total_size: 48 }, weight_map: weightMap });

describe('one file', () => {
  const files = new MemoryFiles({ 'model.safetensors': shard('w') });

  test('streams whole rows in order, or some of them', async () => {
    const checkpoint = await openCheckpoint(files);
    const seen: [number, number[]][] = [];
    await checkpoint.streamRows('w', [3, 2], { firstRow: 1, rows: 2 }, (row, bytes, dtype) => {
      expect(dtype).toBe('float32');
      seen.push([row, [...bytes]]);
    });
    expect(seen).toEqual([[1, Array.from({ length: 16 }, (_, i) => 8 + i)]]);
    seen.length = 0;
    await checkpoint.streamRows('w', [3, 2], { firstRow: 3 }, (row, bytes) => seen.push([row, [...bytes]]));
    expect(seen).toEqual([]);
    await checkpoint.close();
    expect(files.openFiles).toBe(0);
  });

  test('says what is missing or misshapen', async () => {
    const checkpoint = await openCheckpoint(files);
    const nothing = () => {};
    await expect(checkpoint.streamRows('v', [3, 2], {}, nothing)).rejects.toThrow("has no tensor 'v' among its 1");
    await expect(checkpoint.streamRows('w', [2, 3], {}, nothing)).rejects.toThrow('expected shape [2, 3], got [3, 2]');
    await expect(checkpoint.streamRows('w', [3, 2], { firstRow: 2, rows: 2 }, nothing)).rejects.toThrow(
      'has 3 rows; asked for 2 to 4',
    );
    for (const range of [{ firstRow: -1 }, { firstRow: 0.5 }, { rows: -1 }, { firstRow: 4 }]) {
      await expect(checkpoint.streamRows('w', [3, 2], range, nothing)).rejects.toThrow(ModelError);
    }
    await checkpoint.close();
  });

  test('refuses dtypes the engine cannot compute with', async () => {
    const checkpoint = await openCheckpoint(new MemoryFiles({ 'model.safetensors': shard('w', 'I32') }));
    await expect(checkpoint.streamRows('w', [3, 2], {}, () => {})).rejects.toThrow("'w' in memory is stored as I32");
  });

  test('two tensors can be streamed at once, and an error in the consumer gets out', async () => {
    const checkpoint = await openCheckpoint(files);
    const read = async () => {
      let sum = 0;
      await checkpoint.streamRows('w', [3, 2], {}, (_, bytes) => {
        for (const byte of bytes) sum += byte;
      });
      return sum;
    };
    expect(await Promise.all([read(), read(), read()])).toEqual([276, 276, 276]);
    const broken = checkpoint.streamRows('w', [3, 2], {}, () => {
      throw new Error('full');
    });
    await expect(broken).rejects.toThrow('full');
    expect(await read()).toBe(276);
  });

  test('stages at most 8 MiB, however large the tensor', async () => {
    const [rows, columns] = [5000, 1024];
    const data = new Uint8Array(rows * columns * 4);
    new Uint32Array(data.buffer).set(Array.from({ length: rows * columns }, (_, i) => i));
    const header = { w: { dtype: 'F32', shape: [rows, columns], data_offsets: [0, data.byteLength] } };
    const big = new MemoryFiles({ 'model.safetensors': safetensorsFile(header, data) });
    const checkpoint = await openCheckpoint(big);
    let next = 0;
    await checkpoint.streamRows('w', [rows, columns], {}, (row, bytes) => {
      expect(row).toBe(next);
      expect(new Uint32Array(bytes.buffer, bytes.byteOffset, 1)[0]).toBe(row * columns);
      expect(bytes.byteLength).toBeLessThanOrEqual(STAGING_BYTES);
      next += bytes.byteLength / (columns * 4);
    });
    expect(next).toBe(rows);
    expect(big.largestRead).toBeLessThanOrEqual(STAGING_BYTES);
  });
});

describe('several files', () => {
  test('one map over both shards of a real checkpoint', async () => {
    const checkpoint = await openCheckpoint(await golden('sharded-gqa4-d64'));
    expect(checkpoint.tensorNames).toHaveLength(3 + 3 * 11);
    for (const [name, shape] of [
      ['model.embed_tokens.weight', [256, 48]],
      ['lm_head.weight', [256, 48]],
    ] as const) {
      let rows = 0;
      await checkpoint.streamRows(name, shape, {}, (_, bytes, dtype) => {
        rows += bytes.byteLength / 96;
        expect(decodeFloats(dtype, bytes).every((x) => Math.abs(x) < 4)).toBe(true);
      });
      expect(rows).toBe(256);
    }
    await checkpoint.close();
  });

  test('a tensor in a shard that the index does not list is left alone', async () => {
    const files = new MemoryFiles({
      'model.safetensors.index.json': index({ a: 'one.safetensors' }),
      'one.safetensors': safetensorsFile(
        {
          a: { dtype: 'F32', shape: [1], data_offsets: [0, 4] },
          b: { dtype: 'F32', shape: [1], data_offsets: [4, 8] },
        },
        new Uint8Array(8),
      ),
    });
    expect((await openCheckpoint(files)).tensorNames).toEqual(['a']);
  });

  const one = { 'one.safetensors': shard('a') };
  test.each([
    ['no weight_map', '{}', 'must have a weight_map'],
    ['an index that is not JSON', '{', 'is not valid JSON'],
    ['a shard that is not there', index({ a: 'one.safetensors', b: 'two.safetensors' }), 'two.safetensors is missing'],
    ['a tensor that is not in its shard', index({ b: 'one.safetensors' }), "lists 'b' in one.safetensors"],
    ['a path upwards', index({ a: '../one.safetensors' }), 'must be a .safetensors file beside the index'],
    ['an absolute path', index({ a: '/one.safetensors' }), 'must be a .safetensors file beside the index'],
    ['a Windows path', index({ a: 'C:\\one.safetensors' }), 'must be a .safetensors file beside the index'],
    ['a file of another kind', index({ a: 'one.bin' }), 'must be a .safetensors file beside the index'],
    ['a number', index({ a: 1 }), 'must be a .safetensors file beside the index'],
  ])('refuses %s', async (_, text, message) => {
    const files = new MemoryFiles({ ...one, 'model.safetensors.index.json': text });
    const error = await openCheckpoint(files).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ModelError);
    expect((error as Error).message).toContain(message);
    expect(files.openFiles).toBe(0);
  });

  test('a damaged shard closes the others', async () => {
    const files = new MemoryFiles({
      ...one,
      'two.safetensors': new Uint8Array(9),
      'model.safetensors.index.json': index({ a: 'one.safetensors', b: 'two.safetensors' }),
    });
    await expect(openCheckpoint(files)).rejects.toThrow('two.safetensors in memory');
    expect(files.openFiles).toBe(0);
  });
});

describe('a folder', () => {
  const folder = mkdtemp(path.join(tmpdir(), 'nano-files-'));
  afterAll(async () => rm(await folder, { recursive: true }));

  test('without weights', async () => {
    const files = await FolderFiles.open(await folder);
    await expect(openCheckpoint(files)).rejects.toThrow('neither model.safetensors nor model.safetensors.index.json');
    await writeFile(path.join(await folder, 'pytorch_model.bin'), '');
    await expect(openCheckpoint(files)).rejects.toThrow('convert them to safetensors');
    await expect(files.readText('config.json')).rejects.toThrow('config.json is missing in');
    await expect(files.open('.')).rejects.toThrow(ModelError);
    expect(await files.has('.')).toBe(false);
  });

  test('that does not exist, or is a file', async () => {
    await expect(FolderFiles.open('/no/such/folder')).rejects.toThrow(
      /'\/no\/such\/folder' does not exist .* id of a model/,
    );
    await expect(FolderFiles.open(new URL(import.meta.url).pathname)).rejects.toThrow('is a file. Give the folder');
  });

  test('reading past the end', async () => {
    const file = path.join(await folder, 'short');
    await writeFile(file, 'abc');
    const handle = await (await FolderFiles.open(await folder)).open('short');
    expect(handle.size).toBe(3);
    const into = new Uint8Array(2);
    await handle.read(1, into);
    expect([...into]).toEqual([98, 99]);
    await expect(handle.read(2, into)).rejects.toThrow('ends at byte 3; 2 bytes from 2 on were expected');
    await handle.close();
  });
});
