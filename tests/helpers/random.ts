import { bfloat16Bits, type FloatDType, float16Bits, roundTo } from '#nano/tensor/dtype';
import type { Backend } from '#nano/tensor/kernels';
import type { Tensor } from '#nano/tensor/tensor';

/** Fresh inputs for every run; a failure names the seed that repeats it. */
export class RandomInputs {
  private state: number;

  constructor(
    what: string,
    readonly seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31)),
  ) {
    this.state = seed | 1;
    console.log(`${what}: repeat these inputs with SEED=${seed}`);
  }

  /** In (0, 1). */
  uniform(): number {
    this.state ^= this.state << 13;
    this.state ^= this.state >>> 17;
    this.state ^= this.state << 5;
    return ((this.state >>> 0) + 0.5) / 2 ** 32;
  }

  below(n: number): number {
    return Math.floor(this.uniform() * n);
  }

  /** Standard normal, rounded to `dtype` (Box-Muller). */
  normals(count: number, dtype: FloatDType, scale = 1): Float32Array {
    return Float32Array.from({ length: count }, () =>
      roundTo(dtype, scale * Math.sqrt(-2 * Math.log(this.uniform())) * Math.cos(2 * Math.PI * this.uniform())),
    );
  }
}

/** A tensor of `dtype` (int32 for an Int32Array) that holds these values. */
export function put(
  backend: Backend,
  values: Float32Array | Int32Array,
  shape: number[],
  dtype: FloatDType = 'float32',
): Tensor {
  const tensor = backend.allocate(shape, values instanceof Int32Array ? 'int32' : dtype);
  backend.write(tensor, values);
  return tensor;
}

/** A tensor of NaN: what a kernel leaves unwritten stays visible. */
export const poisoned = (backend: Backend, shape: number[], dtype: FloatDType): Tensor =>
  put(backend, new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(NaN), shape, dtype);

/** Values as a checkpoint holds them. */
export function encode(values: Float32Array, dtype: FloatDType): Uint8Array {
  if (dtype === 'float32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  const bits = Uint16Array.from(values, dtype === 'bfloat16' ? bfloat16Bits : float16Bits);
  return new Uint8Array(bits.buffer);
}
