import { Config, type ConfigOptions } from '#nano/config';
import { LLMEngine } from '#nano/engine/llm-engine';
import { ModelRunner } from '#nano/engine/model-runner';
import { parseModelConfig } from '#nano/models/model-config';
import { buildModel, type CausalLM } from '#nano/models/registry';
import type { FloatDType } from '#nano/tensor/dtype';
import type { Backend } from '#nano/tensor/kernels';
import { Ops } from '#nano/tensor/ops';
import type { TokenHash } from '#nano/utils/hash';
import { loadDummyWeights } from '#nano/utils/loader';

export const TINY_CONFIG = {
  architectures: ['Qwen3ForCausalLM'],
  vocab_size: 61,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 8,
  max_position_embeddings: 512,
  tie_word_embeddings: true,
  dtype: 'float32',
};

export interface TinyEngineOptions extends ConfigOptions {
  numKvCacheBlocks: number;
  maxModelLen: number;
  runAhead?: boolean;
  padDecodeBatches?: boolean;
}

/** Two layers of random weights: enough that a wrong key, position or slot changes the greedy tokens. */
export class TinyModel {
  private readonly ops: Ops;
  private readonly model: CausalLM;
  private readonly dtype: FloatDType;

  constructor(readonly backend: Backend) {
    // A GPU computes in 16 bits, and its attention kernels are made for heads of 64 and more.
    const onGpu = backend.name === 'cuda';
    this.dtype = onGpu ? 'bfloat16' : 'float32';
    const json = JSON.stringify({ ...TINY_CONFIG, ...(onGpu && { head_dim: 64 }) });
    const config = parseModelConfig(json, 'tiny');
    this.ops = new Ops(backend, this.dtype);
    this.model = buildModel(this.ops, config, { dtype: this.dtype, attnBackend: 'flash', maxModelLen: 512 });
    loadDummyWeights(this.model, backend, 3);
  }

  /** A fresh engine with its own KV cache over the shared weights. Engines of one model must not be mixed in time. */
  engine(
    { runAhead = this.backend.isAsync, padDecodeBatches, ...options }: TinyEngineOptions,
    hash?: TokenHash,
  ): LLMEngine {
    const config = new Config(options);
    const { numKvCacheBlocks, maxModelLen } = options;
    const runner = new ModelRunner(this.ops, this.model, {
      config,
      maxModelLen,
      kvCacheDType: this.dtype,
      padDecodeBatches,
      skipWarmUp: true,
    });
    runner.allocateKvCache(numKvCacheBlocks);
    const { maxNumSeqs, maxNumBatchedTokens, kvCacheBlockSize, enablePrefixCaching } = config;
    const limits = { maxModelLen, maxNumSeqs, maxNumBatchedTokens, kvCacheBlockSize, numKvCacheBlocks };
    const vocabSize = TINY_CONFIG.vocab_size;
    return new LLMEngine(runner, { ...limits, enablePrefixCaching, vocabSize, eosTokenIds: [0], runAhead, hash });
  }
}
