import { kvHeadShard, type Shard, shardOf } from '#nano/distributed/shards';
import type { Parameter } from '#nano/layers/parameter';
import type { FloatDType } from '#nano/tensor/dtype';
import type { Ops } from '#nano/tensor/ops';
import type { Tensor } from '#nano/tensor/tensor';

/** One projection of the checkpoint: `weight[outputs, inputs]`, perhaps `bias[outputs]`. */
export interface Projection {
  readonly name: string;
  readonly outputs: number;
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
    private readonly projections: readonly (Projection & { readonly rows: Shard })[],
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

  parameters(): Parameter[] {
    const parameters: Parameter[] = [];
    let firstRow = 0;
    for (const { name, outputs, rows } of this.projections) {
      const place = { firstRow, rows };
      parameters.push({ name: `${name}.weight`, shape: [outputs, this.inputs], tensor: this.weight, ...place });
      if (this.bias) parameters.push({ name: `${name}.bias`, shape: [outputs], tensor: this.bias, ...place });
      firstRow += rows.count;
    }
    return parameters;
  }
}

/** The whole layer on every rank: for what is too small, or too entangled, to be split. */
export class ReplicatedLinear extends StackedLinear {
  constructor(ops: Ops, inputs: number, projection: Projection, options: LinearOptions) {
    super(ops, inputs, [{ ...projection, rows: { first: 0, count: projection.outputs } }], options);
  }
}

/**
 * Several projections, of each of which every rank has an equal share of the outputs. The name is Megatron-LM's (Shoeybi et al.
 * 2019, §3), which writes Y = X·A: an output is a column of A there, and a row of the checkpoint's weight here.
 */
export class MergedColumnParallelLinear extends StackedLinear {
  constructor(ops: Ops, inputs: number, projections: readonly Projection[], options: LinearOptions) {
    const sharded = projections.map((projection) => ({ ...projection, rows: shardOf(projection.outputs, ops.group) }));
    super(ops, inputs, sharded, options);
  }
}

/** One projection whose outputs the ranks share. */
export class ColumnParallelLinear extends MergedColumnParallelLinear {
  constructor(ops: Ops, inputs: number, projection: Projection, options: LinearOptions) {
    super(ops, inputs, [projection], options);
  }
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
    const { numAttentionHeads, numKeyValueHeads, headDim } = heads;
    const q = shardOf(numAttentionHeads, ops.group);
    const kv = kvHeadShard(numKeyValueHeads, ops.group);
    const projection = (letter: string, total: number, { first, count }: Shard) => ({
      name: `${name}.${letter}_proj`,
      outputs: total * headDim,
      rows: { first: first * headDim, count: count * headDim },
    });
    const projections = [
      projection('q', numAttentionHeads, q),
      projection('k', numKeyValueHeads, kv),
      projection('v', numKeyValueHeads, kv),
    ];
    super(ops, inputs, projections, options);
    this.numHeads = q.count;
    this.numKvHeads = kv.count;
  }
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
   * The residual and the bias must be added once, not once a rank: rank 0 adds its part to them, the others overwrite their copy
   * of the residual with their part. The sum of all is what each needs.
   */
  addTo(residual: Tensor, x: Tensor): void {
    if (this.ops.group.rank === 0) this.ops.linear(x, this.weight, { bias: this.bias, addTo: residual });
    else this.ops.linear(x, this.weight, { out: residual });
    this.ops.allReduce(residual);
  }

  parameters(): Parameter[] {
    const { weight, bias, inputs, columns } = this;
    const { name, outputs } = this.projection;
    const shape = [outputs, inputs];
    const parameters: Parameter[] = [{ name: `${name}.weight`, shape, tensor: weight, firstRow: 0, columns }];
    if (bias) parameters.push({ name: `${name}.bias`, shape: [outputs], tensor: bias, firstRow: 0 });
    return parameters;
  }
}
