import type { Parameter } from '#nano/layers/parameter';
import type { FloatDType } from '#nano/tensor/dtype';
import type { Ops } from '#nano/tensor/ops';
import type { Tensor } from '#nano/tensor/tensor';

/** One projection of the checkpoint: `weight[outputs, inputs]`, perhaps `bias[outputs]`. */
export interface Projection {
  readonly name: string;
  readonly outputs: number;
}

/**
 * `y = x · Wᵀ + b` for one projection, or for several over the same input whose weights are stacked row over row: q, k and v,
 * or gate and up. One large product keeps the machine busier than three small ones and reads `x` once.
 */
export class Linear {
  readonly weight: Tensor;
  readonly bias: Tensor | null;

  constructor(
    private readonly ops: Ops,
    private readonly inputs: number,
    private readonly projections: readonly Projection[],
    dtype: FloatDType,
    hasBias = false,
  ) {
    const outputs = projections.reduce((sum, p) => sum + p.outputs, 0);
    this.weight = ops.backend.allocateWeight([outputs, inputs], dtype);
    this.bias = hasBias ? ops.backend.allocate([outputs], 'float32') : null;
  }

  /**
   * `[T, inputs]` → `[T, outputs]`, a new tensor or added to `addTo`; with `siluAndMul` the result is SwiGLU's, `[T, outputs / 2]`. Both are
   * part of the layer because a good kernel does them on the way: what is in registers anyway need not go through memory
   * once more.
   */
  forward(x: Tensor, options: { siluAndMul?: boolean; addTo?: Tensor } = {}): Tensor {
    return this.ops.linear(x, this.weight, { bias: this.bias, ...options });
  }

  parameters(): Parameter[] {
    const parameters: Parameter[] = [];
    let firstRow = 0;
    for (const { name, outputs } of this.projections) {
      parameters.push({ name: `${name}.weight`, shape: [outputs, this.inputs], tensor: this.weight, firstRow });
      if (this.bias) parameters.push({ name: `${name}.bias`, shape: [outputs], tensor: this.bias, firstRow });
      firstRow += outputs;
    }
    return parameters;
  }
}
