// Exercise made from src/bench/costs.ts by `npm run days`, which keeps what you write. [528fb6566b93c99b]
import type { Limits } from '#nano/bench/limits';
import type { ModelConfig } from '#nano/models/model-config';
import { TodoError } from '#nano/utils/todo';

/** What computing with a model costs each rank at least, by arithmetic. An operation is one multiplication or one addition. */
export class Costs {
  constructor(
    private readonly model: ModelConfig,
    /** All weights of a rank, which every step reads once. */
    private readonly weightBytes: number,
    /** Bytes of a number in the KV cache. */
    private readonly elementBytes: number,
    /** Over which keys, values and operations are spread. */
    private readonly ranks = 1,
  ) {}

  /** Keys and values of one token in all layers, on one rank. */
  get kvBytesPerToken(): number {
    const { numHiddenLayers, numKeyValueHeads, headDim } = this.model;
    // TODO 7.3 (about 1 line)
    // By hand for Qwen3-0.6B on one rank: 114,688.
    throw new TodoError('7.3', 'days/day7/costs.ts');
  }

  /** Bytes a decode step reads whose sequences have `contextTokens` tokens altogether: weights, keys and values. */
  decodeBytes(contextTokens: number): number {
    // TODO 7.3 (1 line)
    // The weights once, however many sequences there are. Every sequence has keys and values of its own.
    throw new TodoError('7.3', 'days/day7/costs.ts');
  }

  /** Operations of a decode step: one token for each of `batch` sequences, which have `contextTokens` tokens altogether. */
  decodeOps(batch: number, contextTokens: number): number {
    // TODO 7.3 (about 1 line)
    // Each sequence meets all weights of layers and LM head; its query meets each token of its context (`pairOps`).
    throw new TodoError('7.3', 'days/day7/costs.ts');
  }

  /** Bytes that a prefill of prompts with `promptTokens` tokens altogether moves: it reads the weights, and writes keys and values. */
  prefillBytes(promptTokens: number): number {
    // TODO 7.3 (1 line)
    // That a kernel reads keys again for every tile of queries is its own affair: a floor counts what nobody can avoid.
    throw new TodoError('7.3', 'days/day7/costs.ts');
  }

  /**
   * Operations to prefill prompts of these lengths: each token by each weight of the layers, each query by each key up to its own
   * position, and the LM head for the last token of each prompt.
   */
  prefillOps(lengths: readonly number[]): number {
    // TODO 7.3 (about 7 lines)
    // Query i of a prompt (from 1) meets i keys. 1 + 2 + … + n is n · (n + 1) / 2.
    throw new TodoError('7.3', 'days/day7/costs.ts');
  }

  /** Weights of all layers, and of the LM head, that a token is multiplied with: on all ranks together, as all operations here. */
  private get layerWeights(): number {
    const { hiddenSize: H, intermediateSize: I, numAttentionHeads: Hq, numKeyValueHeads: Hkv, headDim: D } = this.model;
    return this.model.numHiddenLayers * (H * (Hq + 2 * Hkv) * D + Hq * D * H + 3 * H * I);
  }

  private get headWeights(): number {
    return this.model.hiddenSize * this.model.vocabSize;
  }

  /** Operations when one token looks at one token, in all layers and heads: query · key, and weight · value. */
  private get pairOps(): number {
    const { numHiddenLayers, numAttentionHeads, headDim } = this.model;
    return 4 * numHiddenLayers * numAttentionHeads * headDim;
  }
}

/**
 * The roofline: seconds that work takes at least on a machine which moves so many bytes and does so many operations a second. It does
 * both at a time, so the slower of the two decides.
 */
export function floorSeconds(bytes: number, operations: number, { bandwidth, matrixRate }: Limits): number {
  // TODO 7.3 (1 line)
  // Not their sum: weights for the next product travel while this one is computed.
  throw new TodoError('7.3', 'days/day7/costs.ts');
}

/** Operations a byte at which a machine is equally long at both. Work with fewer is bound by memory, with more by arithmetic. */
export function ridge({ bandwidth, matrixRate }: Limits): number {
  // TODO 7.3 (1 line)
  // By hand for an H100: 727e12 operations and 3.02e12 bytes a second give 241.
  throw new TodoError('7.3', 'days/day7/costs.ts');
}
