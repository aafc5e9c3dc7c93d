import type { Shard } from '#nano/distributed/shards';
import type { Tensor } from '#nano/tensor/tensor';

/**
 * Where a tensor of the checkpoint goes. Several may share one weight: q_proj, k_proj and v_proj lie one under the
 * other in a single matrix, so that one matrix product computes all three.
 */
export interface Parameter {
  /** Name in the checkpoint, e.g. `model.layers.0.self_attn.q_proj.weight`. */
  readonly name: string;
  /** Shape in the checkpoint. */
  readonly shape: readonly number[];
  readonly tensor: Tensor;
  /** First row (first element of a vector) of `tensor` it fills. */
  readonly firstRow: number;
  /** The rows of the checkpoint's tensor that this rank keeps, and the columns; all of them where nothing is said. */
  readonly rows?: Shard;
  readonly columns?: Shard;
}

/** The shape of what this rank keeps. */
export function localShape({ shape, rows, columns }: Parameter): number[] {
  const [first, ...rest] = shape;
  return [rows?.count ?? first, ...rest.map((size) => columns?.count ?? size)];
}
