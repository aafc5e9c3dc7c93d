// Exercise made from src/layers/linear.ts by `npm run days`, which keeps what you write. [00cb2836cf83b2f3]
import { kvHeadShard, type Place, type Shard, shardOf } from '#nano/distributed/shards';
import type { Parameter } from '#nano/layers/parameter';
import type { FloatDType } from '#nano/tensor/dtype';
import type { Ops } from '#nano/tensor/ops';
import type { Tensor } from '#nano/tensor/tensor';
import { TodoError } from '#nano/utils/todo';

/** One projection of the checkpoint: `weight[outputs, inputs]`, perhaps `bias[outputs]`. */
export interface Projection {
  readonly name: string;
  readonly outputs: number;
}

/** A projection, and which of its rows (outputs) this rank keeps. */
interface ShardedProjection extends Projection {
  readonly rows: Shard;
}

/** What all linear layers take beside their sizes. */
export interface LinearOptions {
  readonly dtype: FloatDType;
  /** Default false. */
  readonly hasBias?: boolean;
}

/**
 * `y = x · Wᵀ + b` for one projection, or for several over the same input whose weights are stacked row over row: q, k and v,
 * or gate and up. One large product keeps the machine busier than three small ones and reads `x` once.
 *
 * Of each projection a rank keeps some of the outputs. So far it is a layer like any other: each output needs all inputs and
 * no other output, so ranks compute their own and need not talk.
 */
class StackedLinear {
  readonly weight: Tensor;
  readonly bias: Tensor | null;

  constructor(
    protected readonly ops: Ops,
    private readonly inputs: number,
    private readonly projections: readonly ShardedProjection[],
    { dtype, hasBias = false }: LinearOptions,
  ) {
    const outputs = projections.reduce((sum, { rows }) => sum + rows.count, 0);
    this.weight = ops.backend.allocateWeight([outputs, inputs], dtype);
    this.bias = hasBias ? ops.backend.allocate([outputs], 'float32') : null;
  }

  /** `[T, inputs]` → `[T, outputs]`; with `siluAndMul` SwiGLU of the two halves, `[T, outputs / 2]`. */
  forward(x: Tensor, options: { siluAndMul?: boolean } = {}): Tensor {
    return this.ops.linear(x, this.weight, { bias: this.bias, ...options });
  }

  /**
   * What is to be loaded: of each projection its weight, and behind it its bias if the layer has one. Both are as long in the
   * checkpoint as the projection has outputs; this rank keeps the same `rows` of both. In its own matrix, and in its own vector, the rows
   * of one projection begin (`firstRow`) where those of the one before end.
   */
  parameters(): Parameter[] {
    // TODO 6.2 (about 9 lines)
    // `shape` is what lies in the checkpoint, the whole projection: [outputs, inputs] for the weight, [outputs] for the bias.
    // `rows` are counted in the checkpoint's tensor, `firstRow` in this rank's.
    throw new TodoError('6.2', 'days/day6/linear.ts');
  }
}

/**
 * Several projections, of each of which every rank has an equal share of the outputs. The name is Megatron-LM's (Shoeybi et al.
 * 2019, §3), which writes Y = X·A: an output is a column of A there, and a row of the checkpoint's weight here.
 */
export class MergedColumnParallelLinear extends StackedLinear {
  constructor(ops: Ops, inputs: number, projections: readonly Projection[], options: LinearOptions) {
    super(ops, inputs, columnShards(projections, ops.group), options);
  }
}

/** Each projection with the rank's equal share of its rows. */
function columnShards(projections: readonly Projection[], place: Place): ShardedProjection[] {
  // TODO 6.2 (1 line)
  // `shardOf` (shards.ts) shares things evenly. Why is a share of each projection not the same as a share of the stack?
  throw new TodoError('6.2', 'days/day6/linear.ts');
}

export interface AttentionHeads {
  readonly numAttentionHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
}

/**
 * The projections of attention, split by heads: heads don't look at one another, so a rank attends with its own alone, and caches
 * their keys and values alone. See {@link kvHeadShard} for what becomes of key/value heads that are fewer than ranks.
 */
export class QKVParallelLinear extends StackedLinear {
  /** This rank's. */
  readonly numHeads: number;
  readonly numKvHeads: number;

  constructor(ops: Ops, inputs: number, name: string, heads: AttentionHeads, options: LinearOptions) {
    const projections = qkvShards(name, heads, ops.group);
    super(ops, inputs, projections, options);
    const [q, k] = projections;
    this.numHeads = q.rows.count / heads.headDim;
    this.numKvHeads = k.rows.count / heads.headDim;
  }
}

/**
 * `${name}.q_proj`, `.k_proj` and `.v_proj`, in this order, with the rank's rows of each: an equal share of the query heads, and the
 * key/value heads that these read. Head h is rows `h · headDim … (h + 1) · headDim - 1`.
 */
function qkvShards(name: string, heads: AttentionHeads, place: Place): ShardedProjection[] {
  // TODO 6.2 (about 9 lines)
  // `shardOf` and `kvHeadShard` (shards.ts) count heads; outputs and rows are counted in numbers: headDim to a head.
  // k and v are alike: the same heads, under two names.
  throw new TodoError('6.2', 'days/day6/linear.ts');
}

/**
 * A projection whose inputs the ranks share: the layer behind a column-parallel one, which finds its inputs where that one left
 * its outputs. An output is a sum over all inputs, so each rank has a part of every sum, and an all-reduce adds them
 * up. It is the only thing the ranks must say to each other: once after attention, once after the MLP.
 */
export class RowParallelLinear {
  readonly weight: Tensor;
  readonly bias: Tensor | null;
  private readonly columns: Shard;

  constructor(
    private readonly ops: Ops,
    private readonly inputs: number,
    private readonly projection: Projection,
    { dtype, hasBias = false }: LinearOptions,
  ) {
    this.columns = shardOf(inputs, ops.group);
    this.weight = ops.backend.allocateWeight([projection.outputs, this.columns.count], dtype);
    this.bias = hasBias ? ops.backend.allocate([projection.outputs], 'float32') : null;
  }

  /**
   * `residual[T, outputs] += x[T, this rank's inputs] · Wᵀ + b`, with all ranks' parts of the sum.
   *
   * All ranks come with the same residual, and leave with the same. It and the bias must be added once, not once a rank: rank 0 adds
   * its part to them, the others overwrite their copy of the residual with their part. The sum of all is what each needs.
   */
  addTo(residual: Tensor, x: Tensor): void {
    // TODO 6.3 (3 lines)
    // Two ranks, residual 10, parts 3 and 4: what must each show to the all-reduce, so that the sum is 17?
    // `ops.linear` has the options `addTo` and `out` (ops.ts); `ops.allReduce(t)` replaces t by the sum of all ranks' t.
    throw new TodoError('6.3', 'days/day6/linear.ts');
  }

  /** What is to be loaded: of the weight `[outputs, inputs]` this rank's columns, all rows of them; and the whole bias, if there is one. */
  parameters(): Parameter[] {
    // TODO 6.3 (about 6 lines)
    // `shape` is that of the checkpoint's tensor; `columns` says which part of each row this rank keeps.
    throw new TodoError('6.3', 'days/day6/linear.ts');
  }
}
