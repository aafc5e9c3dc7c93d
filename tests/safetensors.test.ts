import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { SafetensorsError } from '#nano/errors';
import { FolderFiles } from '#nano/platform/node-files';
import { findDuplicateKey } from '#nano/utils/json';
import { MAX_HEADER_BYTES, openSafetensors, type SafetensorsReader } from '#nano/utils/safetensors';
import { MemoryFiles, safetensorsFile } from './helpers/memory-files';

async function open(bytes: Uint8Array): Promise<SafetensorsReader> {
  return openSafetensors(await new MemoryFiles({ file: bytes }).open('file'), 'file');
}

const two = {
  __metadata__: { format: 'pt' },
  a: { dtype: 'F32', shape: [2, 3], data_offsets: [0, 24] },
  b: { dtype: 'BF16', shape: [4], data_offsets: [24, 32] },
};
const data = Uint8Array.from({ length: 32 }, (_, i) => i);

test('reads names, dtypes, shapes, metadata and any range of bytes', async () => {
  const reader = await open(safetensorsFile(two, data));
  expect([...reader.tensors.keys()]).toEqual(['a', 'b']);
  expect(reader.tensors.get('a')).toMatchObject({ dtype: 'F32', shape: [2, 3] });
  expect(reader.metadata.get('format')).toBe('pt');
  const bytes = new Uint8Array(4);
  await reader.readRange('b', 2, bytes);
  expect([...bytes]).toEqual([26, 27, 28, 29]);
  await expect(reader.readRange('b', 6, bytes)).rejects.toThrow("'b' has 8 bytes; asked for 4 from byte 6 on");
  await expect(reader.readRange('b', -1, bytes)).rejects.toThrow(SafetensorsError);
  await expect(reader.readRange('c', 0, bytes)).rejects.toThrow("file has no tensor 'c'");
});

test('accepts an empty file, scalars, empty tensors and a padded header', async () => {
  expect((await open(safetensorsFile({}))).tensors.size).toBe(0);
  const header = {
    none: { dtype: 'F32', shape: [0, 7], data_offsets: [0, 0] },
    scalar: { dtype: 'F32', shape: [], data_offsets: [0, 4] },
    end: { dtype: 'F64', shape: [0], data_offsets: [4, 4] },
  };
  const reader = await open(safetensorsFile(`${JSON.stringify(header)}     `, data.subarray(0, 4)));
  expect(reader.tensors.get('scalar')?.shape).toEqual([]);
});

test("reads what Hugging Face's own writer wrote", async () => {
  const files = await FolderFiles.open(new URL('goldens/gqa2-d64-tied', import.meta.url).pathname);
  const reader = await openSafetensors(await files.open('model.safetensors'), 'model.safetensors');
  expect(reader.tensors.get('model.embed_tokens.weight')).toMatchObject({ dtype: 'BF16', shape: [256, 96] });
  expect(reader.metadata.get('format')).toBe('pt');
  await reader.close();
});

function withLength(length: bigint, size = 64): Uint8Array {
  const file = new Uint8Array(size);
  new DataView(file.buffer).setBigUint64(0, length, true);
  return file;
}

const tensor = (change: object) => safetensorsFile({ a: { ...two.a, ...change } }, data.subarray(0, 24));

const refused: [what: string, file: Uint8Array, message: string][] = [
  ['an empty file', new Uint8Array(0), 'the file has 0 bytes'],
  ['a file of 7 bytes', new Uint8Array(7), 'the file has 7 bytes'],
  ['a header longer than the file', withLength(57n), 'should take 57 bytes, but only 56 follow'],
  ['a header over the limit', withLength(BigInt(MAX_HEADER_BYTES) + 1n), 'the format allows 100000000'],
  ['a header of 2^60 bytes', withLength(2n ** 60n), '1152921504606846976 bytes'],
  ['a header of 2^64-1 bytes', withLength(2n ** 64n - 1n), '18446744073709551615 bytes'],
  ['a Git LFS pointer', new TextEncoder().encode('version https://git-lfs.github.com/spec/v1\n'), 'git lfs pull'],
  ['a header of no bytes', withLength(0n, 8), 'not valid JSON'],
  ['a header that is not JSON', safetensorsFile('{"a": '), 'not valid JSON'],
  ['a header that is not UTF-8', withLength(8n).fill(0xff, 8), 'not UTF-8'],
  ['a header with a byte order mark', safetensorsFile('\ufeff{}'), 'not valid JSON'],
  ['a header that is an array', safetensorsFile([]), 'must hold a JSON object'],
  ['a tensor that is null', safetensorsFile({ a: null }), "'a' must be an object"],
  ['an unknown dtype', tensor({ dtype: 'F31' }), '\'a\' has the unknown dtype "F31"'],
  ['a dtype from the prototype', tensor({ dtype: 'constructor' }), 'unknown dtype'],
  ['no dtype', tensor({ dtype: undefined }), 'unknown dtype nothing'],
  ['a negative dimension', tensor({ shape: [-2, -3] }), 'has the shape [-2,-3]'],
  ['a fractional dimension', tensor({ shape: [1.5, 4] }), 'has the shape [1.5,4]'],
  ['a dimension past exact integers', tensor({ shape: [1e300] }), 'has the shape [1e+300]'],
  ['a shape of strings', tensor({ shape: ['6'] }), 'has the shape ["6"]'],
  ['huge dimensions', tensor({ shape: [2 ** 50, 2 ** 50] }), 'needs 5.070602400912918e+30 bytes'],
  ['one offset', tensor({ data_offsets: [0] }), 'data_offsets [0]'],
  ['a negative offset', tensor({ data_offsets: [-24, 0] }), 'data_offsets [-24,0]'],
  ['begin after end', tensor({ data_offsets: [24, 0] }), 'begins at byte 24, after its end at 0'],
  ['an end past the file', tensor({ data_offsets: [0, 28] }), 'ends at byte 28 of the data, but the file has 24'],
  ['too few bytes for the shape', tensor({ shape: [2, 4] }), 'needs 32 bytes, but its data_offsets span 24'],
  ['bytes after the last tensor', safetensorsFile(two, new Uint8Array(33)), 'last 1 bytes belong to no tensor'],
  ['a cut-off file', safetensorsFile(two, data).subarray(0, -1), 'It was cut off'],
  [
    'a hole',
    safetensorsFile({ a: two.a, b: { ...two.b, data_offsets: [26, 34] } }, new Uint8Array(34)),
    "2 bytes before 'b' belong to no tensor",
  ],
  [
    'overlapping tensors',
    safetensorsFile({ a: two.a, b: { ...two.b, data_offsets: [20, 28] } }, new Uint8Array(28)),
    "'b' overlaps the tensor before it by 4 bytes",
  ],
  [
    'one name twice',
    safetensorsFile(`{"a":${JSON.stringify(two.a)}, "\\u0061" :${JSON.stringify(two.a)}}`, data.subarray(0, 24)),
    "names 'a' twice",
  ],
  ['metadata that is a list', safetensorsFile({ __metadata__: [] }), '__metadata__ must be an object'],
  ['metadata that is no string', safetensorsFile({ __metadata__: { a: 1 } }), "__metadata__ 'a' must be a string"],
];

describe('refuses', () => {
  test.each(refused)('%s', async (_, file, message) => {
    const error = await open(file).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(SafetensorsError);
    expect((error as Error).message).toContain(message);
    expect((error as Error).message).toMatch(/^file/);
  });
});

test('findDuplicateKey looks at keys only, in every object', () => {
  expect(findDuplicateKey('{"a":"a","b":["a","a",{"a":1}],"c":"\\"b\\":"}')).toBeUndefined();
  expect(findDuplicateKey('{"x":[{"a":1,"b":2,"a":3}]}')).toBe('a');
});

/** Either a reader whose tensors lie in the file, or a SafetensorsError. Never anything else. */
async function survives(file: Uint8Array): Promise<void> {
  const reader = await open(file).catch((e: unknown) => {
    expect(e).toBeInstanceOf(SafetensorsError);
    return undefined;
  });
  for (const { begin, end } of reader?.tensors.values() ?? []) {
    expect(begin).toBeGreaterThanOrEqual(8);
    expect(begin).toBeLessThanOrEqual(end);
    expect(end).toBeLessThanOrEqual(file.byteLength);
  }
}

describe('fuzzing', () => {
  const valid = safetensorsFile(two, data);

  test('flipped bytes, anywhere', async () => {
    const flips = fc.array(fc.tuple(fc.nat(valid.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(flips, async (changes) => {
        const file = valid.slice();
        for (const [at, value] of changes) file[at] = value;
        await survives(file);
      }),
      { numRuns: 2000 },
    );
  });

  test('cut anywhere', async () => {
    for (let length = 0; length < valid.length; length++) {
      await expect(open(valid.subarray(0, length))).rejects.toThrow(SafetensorsError);
    }
  });

  test('any header', async () => {
    const number = fc.oneof(fc.nat(40), fc.integer(), fc.double(), fc.maxSafeInteger());
    const entry = fc.record(
      {
        dtype: fc.oneof(fc.constantFrom('F32', 'BF16', 'U8', 'F4'), fc.string()),
        shape: fc.oneof(fc.array(number, { maxLength: 4 }), fc.jsonValue()),
        data_offsets: fc.oneof(fc.tuple(number, number), fc.jsonValue()),
      },
      { requiredKeys: [] },
    );
    const header = fc.oneof(
      fc.dictionary(fc.string(), fc.oneof({ weight: 4, arbitrary: entry }, fc.jsonValue()), { maxKeys: 4 }),
      fc.jsonValue(),
      fc.string(),
    );
    await fc.assert(
      fc.asyncProperty(header, fc.nat(64), async (value, size) => {
        await survives(safetensorsFile(value, new Uint8Array(size)));
      }),
      { numRuns: 1000 },
    );
  });

  test('a deeply nested header', async () => {
    await survives(safetensorsFile(`{"a":${'['.repeat(200_000)}`));
    await survives(safetensorsFile(`{"a":${'['.repeat(200_000)}${']'.repeat(200_000)}}`));
  });
});
