import type { Config } from '#nano/config';
import type { RankMemory } from '#nano/distributed/messages';
import { ParallelRunner, type Ranks } from '#nano/distributed/ranks';
import { type BuiltRunner, buildRunner } from '#nano/engine/build-runner';
import { LLMEngine } from '#nano/engine/llm-engine';
import { ConfigError } from '#nano/errors';
import { parseTokenIds } from '#nano/models/model-config';
import type { ModelFiles } from '#nano/platform/files';
import type { SamplingOptions } from '#nano/sampling-params';
import type { Backend } from '#nano/tensor/kernels';
import { parseJsonObject } from '#nano/utils/json';
import { loadTokenizer, type Tokenizer } from '#nano/utils/tokenizer';

export interface BuiltEngine extends Pick<BuiltRunner, 'ops' | 'modelConfig' | 'dtype' | 'weightBytes'> {
  readonly engine: LLMEngine;
  readonly tokenizer: Tokenizer | undefined;
  /** Sampling defaults of the model's generation_config.json. */
  readonly defaults: SamplingOptions;
  /** What each rank holds. */
  readonly ranks: readonly RankMemory[];
}

/** Reads a model's files, fills a backend with its weights and sizes the KV cache. On several ranks this is rank 0's part. */
export async function buildEngine(
  files: ModelFiles,
  config: Config,
  backend: Backend,
  kvCacheBudget: () => number,
  onProgress: (message: string) => void,
  ranks?: Ranks,
): Promise<BuiltEngine> {
  const options = { ...config, backend: backend.name };
  ranks?.followers.send({ kind: 'load', model: ranks.model, options });
  const generation = (await files.has('generation_config.json'))
    ? parseJsonObject(await files.readText('generation_config.json'), 'generation_config.json')
    : {};
  const tokenizer = (await files.has('tokenizer.json')) ? await loadTokenizer(files) : undefined;
  const built = await buildRunner(files, config, backend, onProgress, ranks?.group);
  const { runner, modelConfig, ops, dtype, weightBytes } = built;
  // The blocks of all ranks have the same numbers: there are as many as the rank with the least memory has room for.
  const others = (await ranks?.followers.replies('loaded')) ?? [];
  const affordable = Math.min(built.affordableBlocks(kvCacheBudget()), ...others.map((o) => o.affordableBlocks));
  const sizes = sizeKvCache(config, built.maxModelLen, affordable);
  ranks?.followers.send({ kind: 'allocate', numBlocks: sizes.numKvCacheBlocks });
  const memory = built.allocateKvCache(sizes.numKvCacheBlocks);
  const ready = (await ranks?.followers.replies('ready')) ?? [];
  const eosTokenIds = [...new Set([...modelConfig.eosTokenIds, ...parseTokenIds(generation.eos_token_id)])];
  const engine = new LLMEngine(ranks ? new ParallelRunner(runner, ranks.followers) : runner, {
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
  const defaults = samplingDefaults(generation);
  const memories = [memory, ...ready.map((reply) => reply.memory)];
  return { engine, ops, tokenizer, modelConfig, dtype, weightBytes, defaults, ranks: memories };
}

/** How long requests may be and how many blocks there are. */
function sizeKvCache(config: Config, wanted: number, affordable: number) {
  const { kvCacheBlockSize: blockSize } = config;
  const blocksFor = (tokens: number) => Math.ceil(tokens / blockSize);
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
