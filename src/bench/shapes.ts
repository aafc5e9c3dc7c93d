import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ModelFiles } from '#nano/platform/files';
import { FolderFiles } from '#nano/platform/node-files';

/** What Qwen3 models of all sizes have in common. */
const QWEN3 = {
  model_type: 'qwen3',
  architectures: ['Qwen3ForCausalLM'],
  vocab_size: 151936,
  num_key_value_heads: 8,
  head_dim: 128,
  max_position_embeddings: 40960,
  rope_theta: 1e6,
  rms_norm_eps: 1e-6,
  tie_word_embeddings: true,
  torch_dtype: 'bfloat16',
};

/**
 * config.json of published models, for benchmarks with random weights (`loadFormat: 'dummy'`): speed depends on shapes, not on
 * values.
 */
export const SHAPES = {
  'qwen3-0.6b': {
    ...QWEN3,
    hidden_size: 1024,
    intermediate_size: 3072,
    num_hidden_layers: 28,
    num_attention_heads: 16,
  },
  'qwen3-1.7b': {
    ...QWEN3,
    hidden_size: 2048,
    intermediate_size: 6144,
    num_hidden_layers: 28,
    num_attention_heads: 16,
  },
  'qwen3-4b': {
    ...QWEN3,
    hidden_size: 2560,
    intermediate_size: 9728,
    num_hidden_layers: 36,
    num_attention_heads: 32,
  },
  'qwen3-8b': {
    ...QWEN3,
    hidden_size: 4096,
    intermediate_size: 12288,
    num_hidden_layers: 36,
    num_attention_heads: 32,
    tie_word_embeddings: false,
  },
  /** Published by nobody: to see in a second that a suite runs. Its vocabulary holds the throughput suite's token ids. */
  tiny: {
    ...QWEN3,
    vocab_size: 10240,
    hidden_size: 64,
    intermediate_size: 128,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 64,
  },
} as const;

export type ShapeName = keyof typeof SHAPES;

const folders: string[] = [];

/** A model folder that holds nothing but a config.json. It is temporary, and gone when the process ends. */
export function shapeFiles(name: ShapeName): Promise<ModelFiles> {
  if (folders.length === 0) {
    process.on('exit', () => folders.forEach((folder) => rmSync(folder, { recursive: true, force: true })));
  }
  const folder = mkdtempSync(join(tmpdir(), `${name}-`));
  folders.push(folder);
  writeFileSync(join(folder, 'config.json'), JSON.stringify(SHAPES[name]));
  return FolderFiles.open(folder);
}
