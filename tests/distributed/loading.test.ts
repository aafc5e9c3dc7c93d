import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parseModelConfig } from '#nano/models/model-config';
import { buildModel } from '#nano/models/registry';
import { platform } from '#nano/platform';
import { Ops } from '#nano/tensor/ops';

const SHAPE = {
  architectures: ['Qwen3ForCausalLM'],
  vocab_size: 20000,
  hidden_size: 1024,
  intermediate_size: 4096,
  num_hidden_layers: 8,
  num_attention_heads: 16,
  num_key_value_heads: 8,
  head_dim: 64,
  max_position_embeddings: 64,
  tie_word_embeddings: true,
  torch_dtype: 'bfloat16',
};

let folder: string;
let fileBytes: number;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'large-'));
  writeFileSync(join(folder, 'config.json'), JSON.stringify(SHAPE));
  // The tensors that the model asks for, one behind the other, and a file that is all zeros: it takes no room on the disk.
  const config = parseModelConfig(JSON.stringify(SHAPE), 'config.json');
  const ops = new Ops(platform.createBackend('cpu'), 'bfloat16');
  const model = buildModel(ops, config, { dtype: 'bfloat16', attnBackend: 'flash', maxModelLen: 64 });
  let end = 0;
  const entries = model.parameters().map(({ name, shape }) => {
    const begin = end;
    end += 2 * shape.reduce((a, b) => a * b, 1);
    return [name, { dtype: 'BF16', shape, data_offsets: [begin, end] }];
  });
  ops.backend.close();
  const header = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  writeFileSync(join(folder, 'model.safetensors'), Buffer.concat([length, header]));
  fileBytes = 8 + header.length + end;
  truncateSync(join(folder, 'model.safetensors'), fileBytes);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Loaded {
  readonly weightBytes: number;
  readonly allocatedBytes: number;
  readonly bytesRead: number;
  readonly peakBytes: number;
}

async function load(model: string, rank: number, worldSize: number): Promise<Loaded> {
  const script = join(import.meta.dirname, '../helpers/load-shard.mjs');
  const { stdout } = await promisify(execFile)(process.execPath, [script, model, String(rank), String(worldSize)]);
  return JSON.parse(stdout) as Loaded;
}

test('a rank reads its shard of the file, and needs the memory of its shard', async () => {
  const [small, whole] = [await load('tests/goldens/gqa2-d64-tied', 0, 1), await load(folder, 0, 1)];
  expect(whole.bytesRead).toBe(fileBytes);
  const peakOf = (loaded: Loaded) => loaded.peakBytes - small.peakBytes;
  expect(peakOf(whole), 'the measure sees the weights').toBeGreaterThan(0.9 * whole.weightBytes);
  for (const [rank, n] of [
    [1, 2],
    [3, 4],
  ]) {
    const shard = await load(folder, rank, n);
    expect(shard.bytesRead / whole.bytesRead, `read by rank ${rank} of ${n}`).toBeCloseTo(1 / n, 2);
    expect(shard.weightBytes / whole.weightBytes).toBeCloseTo(1 / n, 2);
    // Beside the weights: a staging buffer of 8 MiB, and what a garbage collector has not collected.
    expect(peakOf(shard), `peak of rank ${rank} of ${n}`).toBeLessThan(whole.weightBytes / n + 32 * 2 ** 20);
  }
});
