// Exercise made from src/layers/rotary-embedding.ts by `npm run days`, which keeps what you write. [01c9c06714d67936]
import type { Ops } from '#nano/tensor/ops';
import type { Tensor } from '#nano/tensor/tensor';
import { TodoError } from '#nano/utils/todo';

/**
 * The table of angles: row p holds cos(p·ωᵢ) for i < D/2, then sin(p·ωᵢ), with ωᵢ = theta^(-2i/D) (Su et al. 2021,
 * §3.2.2). Low i turn fast and tell near positions apart; high i turn slowly and see far.
 *
 * ωᵢ and the angles are rounded to float32 on the way, as the libraries the models are trained with do:
 * at position 30,000 that rounding is larger than what a checkpoint can be expected to ignore.
 *
 * @returns float32 `[positions, dim]`.
 */
export function rotaryTable(positions: number, dim: number, theta: number): Float32Array {
  // TODO 2.4 (about 14 lines)
  // Write all ωᵢ down first, for i from 0 to dim / 2 - 1: theta to the power of -2i/dim.
  // Row p is elements `p * dim` to `(p + 1) * dim - 1`: first all cosines of p·ωᵢ, then all sines.
  // `Math.fround` rounds to float32, and so does storing in a Float32Array. First write it without.
  throw new TodoError('2.4', 'days/day2/rotary-embedding.ts');
}

/**
 * Turns queries and keys by an angle that grows with their position, so that their dot product knows the distance. This is
 * the table; the turning is `ops.qkNormRopeStore`.
 */
export class RotaryEmbedding {
  /** float32 `[P, D]` */
  readonly cosSin: Tensor;

  constructor(ops: Ops, dim: number, maxPositions: number, theta: number) {
    this.cosSin = ops.backend.allocate([maxPositions, dim], 'float32');
    ops.backend.write(this.cosSin, rotaryTable(maxPositions, dim, theta));
  }
}
