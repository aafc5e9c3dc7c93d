import type { ModelConfig } from '#nano/models/model-config';

/** What computing with a model costs each rank at least, by arithmetic. */
export class Costs {
  /** Keys and values of one token in all layers, on one rank. */
  readonly kvBytesPerToken: number;
  /** Weights of the layers, and of the LM head, in elements. */
  private readonly layerWeights: number;
  private readonly headWeights: number;

  constructor(
    private readonly model: ModelConfig,
    /** All weights, which a decode step reads once. */
    private readonly weightBytes: number,
    elementBytes: number,
    /** Over which keys, values and operations are spread. */
    private readonly ranks = 1,
  ) {
    const { hiddenSize: H, intermediateSize: I, numAttentionHeads: Hq, numKeyValueHeads: Hkv, headDim: D } = model;
    const { numHiddenLayers: layers, vocabSize } = model;
    this.kvBytesPerToken = (2 * layers * Hkv * D * elementBytes) / ranks;
    this.layerWeights = layers * (H * (Hq + 2 * Hkv) * D + Hq * D * H + 3 * H * I);
    this.headWeights = H * vocabSize;
  }

  /** Bytes a decode step reads whose sequences have `contextTokens` tokens altogether. */
  decodeBytes(contextTokens: number): number {
    return this.weightBytes + contextTokens * this.kvBytesPerToken;
  }

  /** Operations to prefill prompts of these lengths: each token by each weight, each query by each key before it. */
  prefillOps(lengths: readonly number[]): number {
    const { numHiddenLayers, numAttentionHeads, headDim } = this.model;
    const perPair = 4 * numHiddenLayers * numAttentionHeads * headDim;
    const ops = lengths.reduce(
      (sum, n) => sum + 2 * (n * this.layerWeights + this.headWeights) + (perPair * n * (n + 1)) / 2,
      0,
    );
    return ops / this.ranks;
  }
}
