import { checkCopyOut } from '#nano/backends/host-values';
import * as attention from '#nano/backends/reference/attention';
import * as dense from '#nano/backends/reference/dense';
import { sample } from '#nano/backends/reference/sample';
import { BackendError } from '#nano/errors';
import { type DType, decodeFloats, type FloatDType, roundTo } from '#nano/tensor/dtype';
import type { ArenaMemory, AttnVarlenArgs, AttnWithKvCacheArgs, Backend } from '#nano/tensor/kernels';
import { type Storage, Tensor } from '#nano/tensor/tensor';

/**
 * Every operation in plain TypeScript: a few readable lines each, float32 storage, no Node API. It
 * is what the lessons teach, the oracle for every faster kernel, and what runs in a browser or
 * where there is no compiler.
 *
 * bfloat16 and float16 tensors hold float32 numbers that were rounded to that dtype when written:
 * the same values the native backends see, at twice the memory.
 */
export class ReferenceBackend implements Backend {
  readonly name = 'reference';
  readonly description = 'reference: plain TypeScript, one thread';
  readonly dtypes = ['float32', 'bfloat16', 'float16'] as const;
  readonly isAsync = false;
  private readonly owned = new Set<Storage>();
  private bytes = 0;

  readonly embedding = dense.embedding;
  readonly linear = dense.linear;
  readonly rmsNorm = dense.rmsNorm;
  readonly siluAndMul = dense.siluAndMul;
  readonly rotaryEmbedding = dense.rotaryEmbedding;
  readonly gatherRows = dense.gatherRows;
  readonly gatherTokens = dense.gatherTokens;
  readonly scatterTokens = dense.scatterTokens;
  readonly concatColumns = dense.concatColumns;
  readonly storeKvCache = attention.storeKvCache;
  readonly sample = sample;

  activationDType(): FloatDType {
    return 'float32';
  }

  attnVarlen(out: Tensor, q: Tensor, k: Tensor, v: Tensor, args: AttnVarlenArgs): void {
    attention.attnVarlen(out, q, k, v, args);
  }

  attnWithKvCache(out: Tensor, q: Tensor, kCache: Tensor, vCache: Tensor, args: AttnWithKvCacheArgs): void {
    attention.attnWithKvCache(out, q, kCache, vCache, args);
  }

  get allocatedBytes(): number {
    return this.bytes;
  }

  bytesOf(numel: number): number {
    return 4 * numel;
  }

  allocate(shape: readonly number[], dtype: DType): Tensor {
    const numel = shape.reduce((a, b) => a * b, 1);
    const storage: Storage = { alive: true, array: this.makeArray(numel, dtype) };
    this.owned.add(storage);
    return new Tensor(storage, shape, dtype);
  }

  allocateWeight(shape: readonly [number, number], dtype: FloatDType): Tensor {
    return this.allocate(shape, dtype);
  }

  loadRows(weight: Tensor, firstRow: number, bytes: Uint8Array, dtype: FloatDType): void {
    const rowLength = weight.rank === 1 ? 1 : weight.shape[1];
    this.write(weight, decodeFloats(dtype, bytes), firstRow * rowLength);
  }

  write(tensor: Tensor, values: Float32Array | Int32Array, start = 0): void {
    const array = dense.elements(tensor);
    const { dtype } = tensor;
    if (dtype === 'bfloat16' || dtype === 'float16') {
      for (let i = 0; i < values.length; i++) array[tensor.offset + start + i] = roundTo(dtype, values[i]);
    } else array.set(values, tensor.offset + start);
  }

  async read(tensor: Tensor): Promise<Float32Array | Int32Array> {
    const values = tensor.dtype === 'int32' ? new Int32Array(tensor.numel) : new Float32Array(tensor.numel);
    this.copyOut(tensor, values);
    return values;
  }

  /** What {@link read} does, at once and into an array that is there; it may lie in shared memory. */
  copyOut(tensor: Tensor, into: Float32Array | Int32Array): void {
    checkCopyOut(tensor, into);
    into.set(dense.elements(tensor).subarray(tensor.offset, tensor.offset + tensor.numel));
  }

  reserveArena(bytes: number): ArenaMemory {
    const buffer = this.reserve(bytes, () => new ArrayBuffer(bytes));
    return {
      capacity: bytes,
      storageAt: (offset, numel, dtype) => ({
        alive: true,
        array: dtype === 'int32' ? new Int32Array(buffer, offset, numel) : new Float32Array(buffer, offset, numel),
      }),
      free: () => {
        this.bytes -= bytes;
      },
    };
  }

  close(): void {
    for (const storage of this.owned) storage.alive = false;
    this.owned.clear();
    this.bytes = 0;
  }

  private makeArray(numel: number, dtype: DType): Float32Array | Int32Array {
    return this.reserve(4 * numel, () => (dtype === 'int32' ? new Int32Array(numel) : new Float32Array(numel)));
  }

  private reserve<T>(bytes: number, make: () => T): T {
    try {
      const made = make();
      this.bytes += bytes;
      return made;
    } catch (cause) {
      throw new BackendError(
        `The reference backend could not get ${bytes} bytes in one piece. Use the cpu backend, a smaller model, ` +
          'or lower numKvCacheBlocks or maxNumBatchedTokens.',
        { cause },
      );
    }
  }
}
