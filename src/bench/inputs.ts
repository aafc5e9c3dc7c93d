import { bfloat16Bits } from '#nano/tensor/dtype';
import type { Backend } from '#nano/tensor/kernels';
import { Tensor } from '#nano/tensor/tensor';

const NOISE = 1 << 20;

/**
 * bfloat16 tensors of uniform random numbers in [-1, 1), on the device: zeros would let a GPU save power and clock higher.
 * Filling memory takes longer than measuring, so it is done once, and tensors are cut from it again and again.
 */
export class RandomPool {
  private readonly pool: Tensor;

  constructor(
    readonly backend: Backend,
    elements: number,
  ) {
    this.pool = backend.allocate([elements], 'bfloat16');
    const bits = Uint16Array.from({ length: NOISE }, () => bfloat16Bits(2 * Math.random() - 1));
    for (let start = 0; start < elements; start += NOISE) {
      const chunk = new Uint8Array(bits.buffer, 0, 2 * Math.min(NOISE, elements - start));
      backend.loadRows(this.pool, start, chunk, 'bfloat16');
    }
  }

  /** Tensors one behind the other, from the beginning of the pool. */
  cut(...shapes: (readonly number[])[]): Tensor[] {
    let offset = 0;
    return shapes.map((shape) => {
      const tensor = new Tensor(this.pool.storage, shape, 'bfloat16', undefined, offset);
      offset += tensor.numel;
      if (offset > this.pool.numel)
        throw new Error(`A pool of ${this.pool.numel} numbers has none left for [${shape}].`);
      return tensor;
    });
  }
}

/**
 * Each of the numbers below `count` once, in an order without a pattern: where the blocks of a KV cache lie after a while.
 */
export function shuffled(count: number): Int32Array {
  const numbers = Int32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [numbers[i], numbers[j]] = [numbers[j], numbers[i]];
  }
  return numbers;
}

/** An int32 tensor of its own. */
export function intTensor(backend: Backend, values: Int32Array, shape: readonly number[] = [values.length]): Tensor {
  const tensor = backend.allocate(shape, 'int32');
  backend.write(tensor, values);
  return tensor;
}
