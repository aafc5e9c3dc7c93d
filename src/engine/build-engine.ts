import { type Config, DEFAULT_MAX_MODEL_LEN } from '#nano/config';
import { LLMEngine } from '#nano/engine/llm-engine';
import { ModelRunner } from '#nano/engine/model-runner';
import { ConfigError } from '#nano/errors';
import { type ModelConfig, parseModelConfig, parseTokenIds } from '#nano/models/model-config';
import { buildModel } from '#nano/models/registry';
import type { ModelFiles } from '#nano/platform/files';
import type { SamplingOptions } from '#nano/sampling-params';
import { DTYPE_BYTES, type FloatDType } from '#nano/tensor/dtype';
import type { Backend } from '#nano/tensor/kernels';
import { Ops } from '#nano/tensor/ops';
import { openCheckpoint } from '#nano/utils/checkpoint';
import { parseJsonObject } from '#nano/utils/json';
import { loadDummyWeights, loadWeights } from '#nano/utils/loader';
import { loadTokenizer, type Tokenizer } from '#nano/utils/tokenizer';

export interface BuiltEngine {
  readonly engine: LLMEngine;
  readonly ops: Ops;
  readonly tokenizer: Tokenizer | undefined;
  readonly modelConfig: ModelConfig;
  readonly dtype: FloatDType;
  /** Bytes of all weights as the checkpoint holds them, in `dtype`: what one decode step reads. */
  readonly weightBytes: number;
  /** Sampling defaults of the model's generation_config.json. */
  readonly defaults: SamplingOptions;
}

/** Reads a model's files, fills a backend with its weights and sizes the KV cache. */
export async function buildEngine(
  files: ModelFiles,
  config: Config,
  backend: Backend,
  kvCacheBudget: () => number,
  onProgress: (message: string) => void,
): Promise<BuiltEngine> {
  const modelConfig = parseModelConfig(await files.readText('config.json'), `${files.name}/config.json`);
  const generation = (await files.has('generation_config.json'))
    ? parseJsonObject(await files.readText('generation_config.json'), 'generation_config.json')
    : {};
  const tokenizer = (await files.has('tokenizer.json')) ? await loadTokenizer(files) : undefined;
  const dtype = chooseDType(config, modelConfig, backend);
  const maxModelLen = wantedModelLen(config, modelConfig);
  const ops = new Ops(backend, dtype);
  const { attnBackend } = config;
  const model = buildModel(ops, modelConfig, { dtype, attnBackend, maxModelLen });
  if (config.loadFormat === 'dummy') loadDummyWeights(model, backend, config.seed);
  else {
    const checkpoint = await openCheckpoint(files);
    try {
      await loadWeights(model, checkpoint, backend, (done, total) =>
        onProgress(`Loading weights: ${done} of ${total}`),
      );
    } finally {
      await checkpoint.close();
    }
  }
  const runner = new ModelRunner(ops, model, { config, maxModelLen, kvCacheDType: dtype });
  const sizes = sizeKvCache(config, modelConfig, dtype, maxModelLen, kvCacheBudget());
  runner.allocateKvCache(sizes.numKvCacheBlocks);
  const eosTokenIds = [...new Set([...modelConfig.eosTokenIds, ...parseTokenIds(generation.eos_token_id)])];
  const engine = new LLMEngine(runner, {
    ...sizes,
    maxNumSeqs: config.maxNumSeqs,
    maxNumBatchedTokens: config.maxNumBatchedTokens,
    kvCacheBlockSize: config.kvCacheBlockSize,
    enablePrefixCaching: config.enablePrefixCaching,
    vocabSize: modelConfig.vocabSize,
    eosTokenIds,
    tokenizer,
    runAhead: backend.isAsync,
  });
  const weightBytes = model
    .parameters()
    .reduce((sum, { shape, tensor }) => sum + shape.reduce((a, b) => a * b, 1) * DTYPE_BYTES[tensor.dtype], 0);
  return { engine, ops, tokenizer, modelConfig, dtype, weightBytes, defaults: samplingDefaults(generation) };
}

/** The checkpoint's dtype, or the nearest the backend has: a float32 checkpoint becomes bfloat16, whose range is the same. */
function chooseDType(config: Config, model: ModelConfig, backend: Backend): FloatDType {
  const { dtypes, name } = backend;
  if (config.dtype === 'auto') return dtypes.includes(model.dtype) ? model.dtype : dtypes[0];
  if (dtypes.includes(config.dtype)) return config.dtype;
  throw new ConfigError(
    `dtype '${config.dtype}' is not for the backend '${name}', which computes in ${dtypes.join(' or ')}. ` +
      "Choose one of them, 'auto', or another backend.",
  );
}

/** How long requests may be where memory sets no other limit. */
function wantedModelLen(config: Config, model: ModelConfig): number {
  const limit = model.maxPositionEmbeddings;
  if (config.maxModelLen !== undefined && config.maxModelLen > limit) {
    throw new ConfigError(
      `maxModelLen ${config.maxModelLen} is beyond the ${limit} positions the model was made for (max_position_embeddings). ` +
        `Lower it to at most ${limit}.`,
    );
  }
  return config.maxModelLen ?? Math.min(limit, DEFAULT_MAX_MODEL_LEN);
}

/**
 * How long requests may be and how many blocks there are. One block holds kvCacheBlockSize tokens of every layer:
 * 2 (keys, values) · layers · kvCacheBlockSize · Hkv · D elements.
 */
function sizeKvCache(config: Config, model: ModelConfig, dtype: FloatDType, wanted: number, budget: number) {
  const { kvCacheBlockSize: blockSize } = config;
  const elements = 2 * model.numHiddenLayers * blockSize * model.numKeyValueHeads * model.headDim;
  const blocksFor = (tokens: number) => Math.ceil(tokens / blockSize);
  const affordable =
    config.numKvCacheBlocks === -1 ? Math.floor(budget / (elements * DTYPE_BYTES[dtype])) : config.numKvCacheBlocks;
  const maxModelLen = config.maxModelLen ?? Math.min(wanted, affordable * blockSize);
  if (maxModelLen < 1 || blocksFor(maxModelLen) > affordable) {
    throw new ConfigError(
      `A request of maxModelLen ${wanted} tokens needs ${blocksFor(wanted)} KV-cache blocks of ${blockSize} tokens, and ` +
        `${affordable} fit. Lower maxModelLen, free memory, or set numKvCacheBlocks.`,
    );
  }
  const most = config.maxNumSeqs * blocksFor(maxModelLen);
  const numKvCacheBlocks = config.numKvCacheBlocks === -1 ? Math.min(affordable, most) : config.numKvCacheBlocks;
  return { maxModelLen, numKvCacheBlocks };
}

/** generation_config.json's sampling fields, in our names; `do_sample: false` means greedy. */
function samplingDefaults(generation: Readonly<Record<string, unknown>>): SamplingOptions {
  if (generation.do_sample === false) return { temperature: 0 };
  const number = (field: string): number | undefined => {
    const value = generation[field];
    return typeof value === 'number' ? value : undefined;
  };
  const defaults = {
    temperature: number('temperature'),
    topK: number('top_k'),
    topP: number('top_p'),
    minP: number('min_p'),
  };
  return Object.fromEntries(Object.entries(defaults).filter(([, value]) => value !== undefined));
}
