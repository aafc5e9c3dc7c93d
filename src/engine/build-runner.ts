import { type Config, DEFAULT_MAX_MODEL_LEN } from '#nano/config';
import type { RankMemory } from '#nano/distributed/messages';
import { ALONE } from '#nano/distributed/process-group';
import { checkShards, kvHeadShard } from '#nano/distributed/shards';
import { ModelRunner } from '#nano/engine/model-runner';
import { ConfigError } from '#nano/errors';
import { localShape } from '#nano/layers/parameter';
import { type ModelConfig, parseModelConfig } from '#nano/models/model-config';
import { buildModel } from '#nano/models/registry';
import type { ModelFiles } from '#nano/platform/files';
import { DTYPE_BYTES, type FloatDType } from '#nano/tensor/dtype';
import type { Backend } from '#nano/tensor/kernels';
import { Ops } from '#nano/tensor/ops';
import { openCheckpoint } from '#nano/utils/checkpoint';
import { loadDummyWeights, loadWeights } from '#nano/utils/loader';

/** A model with its weights, and what runs it; only the KV cache is missing, whose size is decided last. */
export interface BuiltRunner {
  readonly runner: ModelRunner;
  readonly ops: Ops;
  readonly modelConfig: ModelConfig;
  readonly dtype: FloatDType;
  /** How long requests may be where memory sets no other limit. */
  readonly maxModelLen: number;
  /** Bytes of all weights of this rank as the checkpoint holds them, in `dtype`: what one decode step reads. */
  readonly weightBytes: number;
  /** KV-cache blocks that fit so many bytes, unless the config says how many there are. */
  affordableBlocks(budget: number): number;
  /** To be called once. @returns what this rank now holds, as its backend counts. */
  allocateKvCache(numBlocks: number): RankMemory;
}

/** What every rank does: reads the model's files, and fills a backend with its shard of the weights. */
export async function buildRunner(
  files: ModelFiles,
  config: Config,
  backend: Backend,
  onProgress: (message: string) => void,
  group = ALONE,
): Promise<BuiltRunner> {
  const modelConfig = parseModelConfig(await files.readText('config.json'), `${files.name}/config.json`);
  checkShards(modelConfig, group.worldSize);
  const dtype = chooseDType(config, modelConfig, backend);
  const maxModelLen = wantedModelLen(config, modelConfig);
  const ops = new Ops(backend, dtype, group);
  const before = backend.allocatedBytes;
  const model = buildModel(ops, modelConfig, { dtype, attnBackend: config.attnBackend, maxModelLen });
  const modelBytes = backend.allocatedBytes - before;
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
  // One block holds kvCacheBlockSize tokens of every layer: keys and values of this rank's heads.
  const { numHiddenLayers: layers, numKeyValueHeads, headDim } = modelConfig;
  const { count: heads } = kvHeadShard(numKeyValueHeads, group);
  const blockBytes = 2 * layers * config.kvCacheBlockSize * heads * headDim * DTYPE_BYTES[dtype];
  const elements = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
  const weightBytes = model
    .parameters()
    .reduce((sum, parameter) => sum + elements(localShape(parameter)) * DTYPE_BYTES[parameter.tensor.dtype], 0);
  return {
    runner,
    ops,
    modelConfig,
    dtype,
    maxModelLen,
    weightBytes,
    affordableBlocks: (budget) =>
      config.numKvCacheBlocks === -1 ? Math.floor(budget / blockBytes) : config.numKvCacheBlocks,
    allocateKvCache(numBlocks) {
      const withoutCache = backend.allocatedBytes;
      runner.allocateKvCache(numBlocks);
      const { allocatedBytes } = backend;
      return { modelBytes, kvCacheBytes: allocatedBytes - withoutCache, allocatedBytes };
    },
  };
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
