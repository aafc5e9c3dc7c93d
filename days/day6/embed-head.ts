// Exercise made from src/layers/embed-head.ts by `npm run days`, which keeps what you write. [edb8c87e38c67225]
import { type Shard, vocabShard } from '#nano/distributed/shards';
import type { Parameter } from '#nano/layers/parameter';
import type { FloatDType } from '#nano/tensor/dtype';
import type { Ops } from '#nano/tensor/ops';
import type { Tensor } from '#nano/tensor/tensor';
import { TodoError } from '#nano/utils/todo';

/** A row of weights for every token of the vocabulary. Each rank has the rows of some tokens. */
export class VocabParallelEmbedding {
  /** `[rows, H]`; a short last shard is filled up with zeros, so that all ranks' logits have one shape. */
  readonly weight: Tensor;
  private readonly shard: Shard;

  constructor(
    private readonly ops: Ops,
    private readonly name: string,
    private readonly vocabSize: number,
    private readonly hiddenSize: number,
    dtype: FloatDType,
  ) {
    const shard = vocabShard(vocabSize, ops.group);
    this.shard = shard;
    this.weight = ops.backend.allocateWeight([shard.padded, hiddenSize], dtype);
  }

  /**
   * Token ids int32 `[T]` → `[T, H]`. A rank finds zeros for tokens that are not its own; exactly one rank finds each
   * token, so the sum over all is its row, to the last bit. A rank alone has all rows, and an id beyond them is an error there.
   */
  forward(ids: Tensor): Tensor {
    // TODO 6.4 (about 4 lines)
    // `ops.embedding(ids, weight, firstRow)` gives zeros for ids outside a shard that begins at `firstRow`; with null it is an
    // error to be outside. This rank's first row is `shard.first`.
    throw new TodoError('6.4', 'days/day6/embed-head.ts');
  }

  parameters(): Parameter[] {
    const { weight: tensor, shard: rows } = this;
    const shape = [this.vocabSize, this.hiddenSize];
    return [{ name: `${this.name}.weight`, shape, tensor, firstRow: 0, rows }];
  }
}

/**
 * Scores every token of the vocabulary. Small models tie it to the embedding: the same matrix, once to read a
 * token in and once to compare the hidden state with every token. Each rank scores its own tokens; a gather brings the scores
 * together, since sampling looks at all of them. All ranks then draw, and draw alike: who has the token need not tell.
 */
export class ParallelLMHead {
  private readonly weight: Tensor;
  private readonly shard: Shard;

  constructor(
    private readonly ops: Ops,
    private readonly name: string,
    private readonly vocabSize: number,
    private readonly hiddenSize: number,
    dtype: FloatDType,
    private readonly tied: Tensor | null,
  ) {
    const shard = vocabShard(vocabSize, ops.group);
    this.shard = shard;
    this.weight = tied ?? ops.backend.allocateWeight([shard.padded, hiddenSize], dtype);
  }

  /**
   * `[B, H]` → logits `[B, V]`, float32 also where activations have 16 bits: those would make ties of close rivals. The rows that
   * fill up a short last shard are no tokens, and have no column.
   */
  forward(hidden: Tensor): Tensor {
    // TODO 6.4 (3 lines)
    // `ops.linear` makes activations; for another dtype, give it an `ops.empty([B, rows of the weight], 'float32')` as `out`.
    // `ops.allGatherColumns(own, columns)` lays the ranks' columns side by side, and cuts off what is beyond `columns`.
    throw new TodoError('6.4', 'days/day6/embed-head.ts');
  }

  parameters(): Parameter[] {
    if (this.tied) return [];
    const { weight: tensor, shard: rows } = this;
    const shape = [this.vocabSize, this.hiddenSize];
    return [{ name: `${this.name}.weight`, shape, tensor, firstRow: 0, rows }];
  }
}
