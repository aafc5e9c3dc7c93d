import { ModelError } from '#nano/errors';
import type { ModelFiles } from '#nano/platform/files';

/** Published shapes, for benchmarks with random weights (`loadFormat: 'dummy'`): speed depends on shapes, not on values. */
export const SHAPES = {
  'qwen3-0.6b': {
    hidden_size: 1024,
    intermediate_size: 3072,
    num_hidden_layers: 28,
    num_attention_heads: 16,
    tied: true,
  },
  'qwen3-1.7b': {
    hidden_size: 2048,
    intermediate_size: 6144,
    num_hidden_layers: 28,
    num_attention_heads: 16,
    tied: true,
  },
  'qwen3-4b': {
    hidden_size: 2560,
    intermediate_size: 9728,
    num_hidden_layers: 36,
    num_attention_heads: 32,
    tied: true,
  },
} as const;

export type ShapeName = keyof typeof SHAPES;

/** A model folder that holds nothing but a config.json. */
export function shapeFiles(name: ShapeName): ModelFiles {
  const { tied, ...sizes } = SHAPES[name];
  const config = {
    architectures: ['Qwen3ForCausalLM'],
    ...sizes,
    vocab_size: 151936,
    num_key_value_heads: 8,
    head_dim: 128,
    max_position_embeddings: 40960,
    rope_theta: 1e6,
    rms_norm_eps: 1e-6,
    tie_word_embeddings: tied,
    torch_dtype: 'bfloat16',
  };
  return {
    name,
    has: async (file) => file === 'config.json',
    readText: async () => JSON.stringify(config),
    open: async (file) => {
      throw new ModelError(`${name} is a shape without weights: there is no ${file}. Use --load-format dummy.`);
    },
  };
}
