import type { Ops } from '#nano/tensor/ops';
import type { Tensor } from '#nano/tensor/tensor';

/** SwiGLU's gate: `[T, 2I]` → `[T, I]`, silu of the first half times the second. */
export class SiluAndMul {
  constructor(private readonly ops: Ops) {}

  forward(x: Tensor): Tensor {
    return this.ops.siluAndMul(x);
  }
}
