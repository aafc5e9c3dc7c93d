import { ModelError } from '#nano/errors';
import type { ModelFiles } from '#nano/platform/files';

/** What Qwen3 models of all sizes have in common. */
const QWEN3 = {
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

/** A model folder that holds nothing but a config.json. */
export function shapeFiles(name: ShapeName): ModelFiles {
  return {
    name,
    has: async (file) => file === 'config.json',
    readText: async () => JSON.stringify(SHAPES[name]),
    open: async (file) => {
      throw new ModelError(`${name} is a shape without weights: there is no ${file}. Use --load-format dummy.`);
    },
  };
}
