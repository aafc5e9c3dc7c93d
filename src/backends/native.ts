import type { NativeDevice } from '#nano/backends/addon';
import { checkHostValues } from '#nano/backends/host-values';
import { BackendError, InvalidTensorError } from '#nano/errors';
import { DTYPE_BYTES, type DType, type FloatDType } from '#nano/tensor/dtype';
import type {
  ArenaMemory,
  AttnVarlenArgs,
  AttnWithKvCacheArgs,
  Backend,
  LinearArgs,
  SampleArgs,
} from '#nano/tensor/kernels';
import { type Storage, Tensor } from '#nano/tensor/tensor';

/** The code of a checkpoint's dtype, as in `Tensor.desc`. */
const DTYPE_CODE: Readonly<Record<FloatDType, number>> = { float32: 0, bfloat16: 1, float16: 2 };

/**
 * What the backends in C++ have in common: this class owns the tensors' lifetimes, passes the op list on to the addon and turns
 * native errors into ours. The kernels are in `csrc`.
 */
export abstract class NativeBackend<Device extends NativeDevice> implements Backend {
  abstract readonly name: 'cpu' | 'cuda';
  abstract readonly isAsync: boolean;
  abstract readonly dtypes: readonly FloatDType[];
  readonly description: string;
  protected readonly device: Device;
  private readonly owned = new Set<Storage>();
  private closed = false;

  constructor(open: () => Device) {
    this.device = this.call(open);
    this.description = this.device.describe();
  }

  abstract activationDType(dtype: FloatDType): FloatDType;
  abstract attnVarlen(out: Tensor, q: Tensor, k: Tensor, v: Tensor, args: AttnVarlenArgs): void;
  abstract attnWithKvCache(out: Tensor, q: Tensor, kCache: Tensor, vCache: Tensor, args: AttnWithKvCacheArgs): void;
  abstract allocateWeight(shape: readonly [number, number], dtype: FloatDType): Tensor;
  abstract read(tensor: Tensor): Promise<Float32Array | Int32Array>;

  // --- memory ---------------------------------------------------------------------------------------

  bytesOf(numel: number, dtype: DType): number {
    return numel * DTYPE_BYTES[dtype];
  }

  get allocatedBytes(): number {
    return this.device.allocatedBytes();
  }

  allocate(shape: readonly number[], dtype: DType): Tensor {
    const numel = shape.reduce((a, b) => a * b, 1);
    return new Tensor(this.own(this.bytesOf(numel, dtype)), shape, dtype);
  }

  reserveArena(bytes: number): ArenaMemory {
    const base = this.own(bytes);
    return {
      capacity: bytes,
      storageAt: (offset) => ({ alive: true, address: base.address! + offset }),
      free: () => {
        if (!base.alive) return;
        base.alive = false;
        this.owned.delete(base);
        this.device.free(base.address!);
      },
    };
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    for (const storage of this.owned) storage.alive = false;
    this.owned.clear();
    this.device.close();
  }

  protected own(bytes: number): Storage & { readonly address: number } {
    const storage = { alive: true, address: this.call(() => this.device.allocate(bytes)) };
    this.owned.add(storage);
    return storage;
  }

  // --- transfers ------------------------------------------------------------------------------------

  loadRows(weight: Tensor, firstRow: number, bytes: Uint8Array, dtype: FloatDType): void {
    this.call(() => this.device.loadRows(weight.desc, firstRow, bytes, DTYPE_CODE[dtype]));
  }

  write(tensor: Tensor, values: Float32Array | Int32Array): void {
    const { desc, dtype } = tensor;
    checkHostValues('write', tensor, values);
    if (dtype === 'int32' || (dtype === 'float32' && tensor.layout === 'strided')) {
      this.call(() => this.device.copyIn(desc, values));
      return;
    }
    // Rounding and packing are what loading does.
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    const target = tensor.layout === 'packed' ? tensor : this.flat(tensor);
    this.loadRows(target, 0, bytes, 'float32');
  }

  /** A contiguous tensor as one long vector. */
  private flat(tensor: Tensor): Tensor {
    if (!tensor.isContiguous) throw new InvalidTensorError(`write: [${tensor.shape}] must be contiguous.`);
    return new Tensor(tensor.storage, [tensor.numel], tensor.dtype, undefined, tensor.offset);
  }

  // --- kernels --------------------------------------------------------------------------------------

  embedding(out: Tensor, ids: Tensor, weight: Tensor, firstRow: number | null): void {
    this.call(() => this.device.embedding(out.desc, ids.desc, weight.desc, firstRow));
  }

  linear(out: Tensor, x: Tensor, weight: Tensor, { bias, accumulate, siluAndMul }: LinearArgs): void {
    this.call(() => this.device.linear(out.desc, x.desc, weight.desc, bias && bias.desc, accumulate, siluAndMul));
  }

  rmsNorm(out: Tensor, x: Tensor, weight: Tensor, eps: number): void {
    this.call(() => this.device.rmsNorm(out.desc, x.desc, weight.desc, eps));
  }

  siluAndMul(out: Tensor, x: Tensor): void {
    this.call(() => this.device.siluAndMul(out.desc, x.desc));
  }

  rotaryEmbedding(q: Tensor, k: Tensor, positions: Tensor, cosSin: Tensor): void {
    this.call(() => this.device.rotaryEmbedding(q.desc, k.desc, positions.desc, cosSin.desc));
  }

  storeKvCache(k: Tensor, v: Tensor, kCache: Tensor, vCache: Tensor, slotMapping: Tensor): void {
    this.call(() => this.device.storeKvCache(k.desc, v.desc, kCache.desc, vCache.desc, slotMapping.desc));
  }

  gatherRows(out: Tensor, x: Tensor, rows: Tensor): void {
    this.call(() => this.device.gatherRows(out.desc, x.desc, rows.desc));
  }

  gatherTokens(out: Tensor, table: Tensor, slots: Tensor): void {
    this.call(() => this.device.gatherTokens(out.desc, table.desc, slots.desc));
  }

  scatterTokens(table: Tensor, values: Tensor, slots: Tensor): void {
    this.call(() => this.device.scatterTokens(table.desc, values.desc, slots.desc));
  }

  concatColumns(out: Tensor, parts: Tensor): void {
    this.call(() => this.device.concatColumns(out.desc, parts.desc));
  }

  sample(out: Tensor, logits: Tensor, args: SampleArgs): void {
    const { temperature, topK, topP, minP, seed, position } = args;
    const filters = [topK.desc, topP.desc, minP.desc] as const;
    this.call(() => this.device.sample(out.desc, logits.desc, temperature.desc, ...filters, seed.desc, position.desc));
  }

  protected call<T>(body: () => T): T {
    return callNative(body);
  }
}

/** Makes native errors, which carry a `code`, ours; the rest pass through. */
export function callNative<T>(body: () => T): T {
  try {
    return body();
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    if (code === 'TENSOR') throw new InvalidTensorError(message);
    if (code === 'BACKEND') throw new BackendError(message);
    throw error;
  }
}
