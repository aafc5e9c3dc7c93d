import { Config, type ConfigOptions } from '#nano/config';
import { LLMEngine } from '#nano/engine/llm-engine';
import { ModelRunner } from '#nano/engine/model-runner';
import { parseModelConfig } from '#nano/models/model-config';
import { buildModel, type CausalLM } from '#nano/models/registry';
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

/** Two layers of random weights: enough that a wrong key, position or slot changes the greedy tokens. */
export class TinyModel {
  private readonly ops: Ops;
  private readonly model: CausalLM;

  constructor(readonly backend: Backend) {
    this.ops = new Ops(backend);
    const config = parseModelConfig(JSON.stringify(TINY_CONFIG), 'tiny');
    this.model = buildModel(this.ops, config, { dtype: 'float32', attnBackend: 'flash', maxModelLen: 512 });
    loadDummyWeights(this.model, backend, 3);
  }

  /** A fresh engine with its own KV cache over the shared weights. Engines of one model must not be mixed in time. */
  engine(options: ConfigOptions & { numKvCacheBlocks: number; maxModelLen: number }, hash?: TokenHash): LLMEngine {
    const config = new Config(options);
    const { numKvCacheBlocks, maxModelLen } = options;
    const runner = new ModelRunner(this.ops, this.model, {
      config,
      maxModelLen,
      numKvCacheBlocks,
      kvCacheDType: 'float32',
    });
    const { maxNumSeqs, maxNumBatchedTokens, kvCacheBlockSize, enablePrefixCaching } = config;
    const limits = { maxModelLen, maxNumSeqs, maxNumBatchedTokens, kvCacheBlockSize, numKvCacheBlocks };
    const vocabSize = TINY_CONFIG.vocab_size;
    return new LLMEngine(runner, { ...limits, enablePrefixCaching, vocabSize, eosTokenIds: [0], hash });
  }
}
