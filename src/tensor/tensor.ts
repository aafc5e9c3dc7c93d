import { InvalidTensorError } from '#nano/errors';
import { DTYPE_BYTES, type DType } from '#nano/tensor/dtype';

/**
 * Where a tensor's elements live. The reference backend keeps a typed array, the native backends an
 * address. `alive` turns false when the storage is freed or its arena scope ends; using a tensor
 * after that throws instead of reading somebody else's numbers.
 */
export interface Storage {
  alive: boolean;
  /** Reference backend: the elements. */
  readonly array?: Float32Array | Int32Array;
  /** Native backends: the address in host or device memory. */
  readonly address?: number;
}

/** How a 2-D weight lies in memory: `packed` is a backend's private order, read only by its kernels. */
export type Layout = 'strided' | 'packed';

/** Codes shared with `csrc/tensor.h`. */
const DTYPE_CODE: Record<DType, number> = { float32: 0, bfloat16: 1, float16: 2, int32: 3 };
const LAYOUT_CODE: Record<Layout, number> = { strided: 0, packed: 1 };

/**
 * A shape, a dtype and strides over a storage. Tensors are handles: views share the storage.
 * The innermost dimension is always contiguous; strides count elements.
 */
export class Tensor {
  private descriptor: Float64Array | undefined;

  constructor(
    readonly storage: Storage,
    readonly shape: readonly number[],
    readonly dtype: DType,
    readonly strides: readonly number[] = contiguousStrides(shape),
    /** Distance of the first element from the start of the storage, in elements. */
    readonly offset = 0,
    readonly layout: Layout = 'strided',
  ) {}

  get rank(): number {
    return this.shape.length;
  }

  get numel(): number {
    return this.shape.reduce((a, b) => a * b, 1);
  }

  get isContiguous(): boolean {
    const dense = contiguousStrides(this.shape);
    return this.shape.every((size, i) => size <= 1 || this.strides[i] === dense[i]);
  }

  /**
   * Columns `[start, start + length)` of the last dimension: how q, k and v are cut from one fused
   * projection without a copy. The result is strided: its rows keep the distance of the full rows.
   */
  columns(start: number, length: number): Tensor {
    const last = this.rank - 1;
    if (start < 0 || length < 0 || start + length > this.shape[last]) {
      throw new InvalidTensorError(
        `columns(${start}, ${length}) of a tensor of shape [${this.shape}]: the last dimension has ${this.shape[last]}.`,
      );
    }
    const shape = [...this.shape.slice(0, last), length];
    return new Tensor(this.storage, shape, this.dtype, this.strides, this.offset + start);
  }

  /** Splits the last dimension `[…, heads * dim]` into `[…, heads, dim]`. No copy. */
  splitHeads(heads: number): Tensor {
    const last = this.rank - 1;
    const dim = this.shape[last] / heads;
    if (!Number.isInteger(dim)) {
      throw new InvalidTensorError(`Cannot split ${this.shape[last]} columns into ${heads} heads of equal size.`);
    }
    return new Tensor(
      this.storage,
      [...this.shape.slice(0, last), heads, dim],
      this.dtype,
      [...this.strides.slice(0, last), dim, 1],
      this.offset,
    );
  }

  /** The inverse of {@link splitHeads}, for a contiguous tensor. No copy. */
  mergeHeads(): Tensor {
    const [heads, dim] = this.shape.slice(-2);
    if (!this.isContiguous) throw new InvalidTensorError(`mergeHeads needs a contiguous tensor, got [${this.shape}].`);
    return new Tensor(this.storage, [...this.shape.slice(0, -2), heads * dim], this.dtype, undefined, this.offset);
  }

  /** @throws InvalidTensorError when the storage was freed or its arena scope has ended. */
  assertAlive(): void {
    if (!this.storage.alive) {
      throw new InvalidTensorError(
        `A tensor of shape [${this.shape}] was used after its memory was given back: ` +
          'tensors made inside an arena scope end with that scope.',
      );
    }
  }

  /**
   * The struct a native kernel reads: address, dtype, layout, rank, four sizes, four strides
   * (`csrc/tensor.h`). Addresses stay below 2^53, so a double holds them exactly.
   */
  get desc(): Float64Array {
    this.assertAlive();
    if (!this.descriptor) {
      const d = newDescriptor();
      d[0] = (this.storage.address ?? 0) + this.offset * DTYPE_BYTES[this.dtype];
      d[1] = DTYPE_CODE[this.dtype];
      d[2] = LAYOUT_CODE[this.layout];
      d[3] = this.rank;
      for (let i = 0; i < this.rank; i++) {
        d[4 + i] = this.shape[i];
        d[8 + i] = this.strides[i];
      }
      this.descriptor = d;
    }
    return this.descriptor;
  }
}

const DESCRIPTOR_LENGTH = 12;
const DESCRIPTORS_PER_SLAB = 1024;
let slab = new ArrayBuffer(0);
let slabUsed = 0;

/**
 * Cut from a shared buffer: native code asks for an array's buffer, and a buffer for each of a step's thousand descriptors would
 * keep the garbage collector busier than the step is.
 */
function newDescriptor(): Float64Array {
  if (slabUsed === slab.byteLength) {
    slab = new ArrayBuffer(DESCRIPTORS_PER_SLAB * DESCRIPTOR_LENGTH * 8);
    slabUsed = 0;
  }
  const descriptor = new Float64Array(slab, slabUsed, DESCRIPTOR_LENGTH);
  slabUsed += descriptor.byteLength;
  return descriptor;
}

export function contiguousStrides(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= shape[i];
  }
  return strides;
}
