import { ModelError } from '#nano/errors';
import type { FloatDType } from '#nano/tensor/dtype';
import { type JsonObject, parseJsonObject } from '#nano/utils/json';

/** The part of a checkpoint's config.json that the engine uses, checked. Names as in Hugging Face configs. */
export interface ModelConfig {
  readonly architecture: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly numKeyValueHeads: number;
  /** Not hiddenSize / numAttentionHeads in general: Qwen3-0.6B has 1024, 16 and 128. */
  readonly headDim: number;
  readonly maxPositionEmbeddings: number;
  readonly rmsNormEps: number;
  readonly ropeTheta: number;
  readonly tieWordEmbeddings: boolean;
  readonly attentionBias: boolean;
  readonly dtype: FloatDType;
  readonly eosTokenIds: readonly number[];
}

/**
 * Reads a published config.json. Newer files put `rope_theta` into `rope_parameters` and call `torch_dtype` `dtype`.
 * @throws ModelError naming the field, its value and what is supported.
 */
export function parseModelConfig(text: string, file: string): ModelConfig {
  const json = parseJsonObject(text, file);
  const fail = (message: string): never => {
    throw new ModelError(`${file}: ${message}`);
  };
  const integer = (field: string, fallback?: number): number => {
    const value = json[field] ?? fallback;
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 1) {
      return fail(`${field} must be a whole number of at least 1, got ${JSON.stringify(value)}.`);
    }
    return value;
  };
  const unsupported = (field: string, supported: string) =>
    fail(`${field} ${JSON.stringify(json[field])} is not supported, only ${supported}.`);

  if ((json.hidden_act ?? 'silu') !== 'silu') unsupported('hidden_act', "'silu'");
  if (json.use_sliding_window === true) unsupported('use_sliding_window', 'false');
  const layerTypes = json.layer_types;
  if (Array.isArray(layerTypes) && layerTypes.some((type) => type !== 'full_attention')) {
    unsupported('layer_types', "'full_attention' in every layer");
  }
  const numAttentionHeads = integer('num_attention_heads');
  const numKeyValueHeads = integer('num_key_value_heads', numAttentionHeads);
  if (numAttentionHeads % numKeyValueHeads !== 0) {
    fail(`num_attention_heads ${numAttentionHeads} must be a multiple of num_key_value_heads ${numKeyValueHeads}.`);
  }
  const headDim = integer('head_dim', 128);
  if (headDim % 2 !== 0 || headDim > 256) fail(`head_dim must be even and at most 256, got ${headDim}.`);

  return {
    architecture: parseArchitecture(json, fail),
    vocabSize: integer('vocab_size'),
    hiddenSize: integer('hidden_size'),
    intermediateSize: integer('intermediate_size'),
    numHiddenLayers: integer('num_hidden_layers'),
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    maxPositionEmbeddings: integer('max_position_embeddings', 32768),
    rmsNormEps: positive(json.rms_norm_eps ?? 1e-6, 'rms_norm_eps', fail),
    ropeTheta: parseRope(json, fail),
    tieWordEmbeddings: json.tie_word_embeddings === true,
    attentionBias: json.attention_bias === true,
    dtype: parseDType(json.dtype ?? json.torch_dtype ?? 'float32', fail),
    eosTokenIds: parseTokenIds(json.eos_token_id),
  };
}

/** `eos_token_id` is a number, a list or absent. */
export function parseTokenIds(value: unknown): number[] {
  return (Array.isArray(value) ? value : [value]).filter((id): id is number => Number.isInteger(id));
}

function parseArchitecture(json: JsonObject, fail: (message: string) => never): string {
  const architecture = Array.isArray(json.architectures) ? json.architectures[0] : undefined;
  if (typeof architecture === 'string') return architecture;
  return fail(
    `architectures must name the model class, e.g. ["Qwen3ForCausalLM"], got ${JSON.stringify(json.architectures)}.`,
  );
}

function positive(value: unknown, field: string, fail: (message: string) => never): number {
  return typeof value === 'number' && value > 0
    ? value
    : fail(`${field} must be a number above 0, got ${JSON.stringify(value)}.`);
}

function parseRope(json: JsonObject, fail: (message: string) => never): number {
  const rope = (json.rope_parameters ?? json.rope_scaling ?? {}) as JsonObject;
  const type = rope.rope_type ?? rope.type ?? 'default';
  if (type !== 'default') fail(`rope type ${JSON.stringify(type)} is not supported, only 'default'.`);
  return positive(rope.rope_theta ?? json.rope_theta ?? 10000, 'rope_theta', fail);
}

function parseDType(value: unknown, fail: (message: string) => never): FloatDType {
  if (value === 'float32' || value === 'bfloat16' || value === 'float16') return value;
  return fail(`dtype ${JSON.stringify(value)} is not supported, only 'bfloat16', 'float16' and 'float32'.`);
}
