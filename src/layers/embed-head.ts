import type { Parameter } from '#nano/layers/parameter';
import type { FloatDType } from '#nano/tensor/dtype';
import type { Ops } from '#nano/tensor/ops';
import type { Tensor } from '#nano/tensor/tensor';

/** A row of weights for every token of the vocabulary. */
export class VocabEmbedding {
  readonly weight: Tensor;

  constructor(
    private readonly ops: Ops,
    private readonly name: string,
    vocabSize: number,
    hiddenSize: number,
    dtype: FloatDType,
  ) {
    this.weight = ops.backend.allocateWeight([vocabSize, hiddenSize], dtype);
  }

  /** Token ids int32 `[T]` → `[T, H]`. */
  forward(ids: Tensor): Tensor {
    return this.ops.embedding(ids, this.weight);
  }

  parameters(): Parameter[] {
    return [{ name: `${this.name}.weight`, shape: this.weight.shape, tensor: this.weight, firstRow: 0 }];
  }
}

/**
 * Scores every token of the vocabulary. Small models tie it to the embedding: the same matrix, once to read a
 * token in and once to compare the hidden state with every token.
 */
export class LMHead {
  private readonly weight: Tensor;

  constructor(
    private readonly ops: Ops,
    private readonly name: string,
    vocabSize: number,
    hiddenSize: number,
    dtype: FloatDType,
    private readonly tied: Tensor | null,
  ) {
    this.weight = tied ?? ops.backend.allocateWeight([vocabSize, hiddenSize], dtype);
  }

  /** `[B, H]` → logits `[B, V]`, float32 also where activations have 16 bits: those would make ties of close rivals. */
  forward(hidden: Tensor): Tensor {
    const logits = this.ops.empty([hidden.shape[0], this.weight.shape[0]], 'float32');
    return this.ops.linear(hidden, this.weight, { out: logits });
  }

  parameters(): Parameter[] {
    if (this.tied) return [];
    return [{ name: `${this.name}.weight`, shape: this.weight.shape, tensor: this.weight, firstRow: 0 }];
  }
}
