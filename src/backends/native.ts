import { findAddon, loadAddon, type NativeAddon, type NativeDevice } from '#nano/backends/addon';
import { BackendError, ConfigError, InvalidTensorError } from '#nano/errors';
import { DTYPE_BYTES, type DType, type FloatDType } from '#nano/tensor/dtype';
import type { ArenaMemory, AttnVarlenArgs, AttnWithKvCacheArgs, Backend, SampleArgs } from '#nano/tensor/kernels';
import { type Layout, type Storage, Tensor } from '#nano/tensor/tensor';

/** Fastest first. Each includes all that follow it. */
export const CPU_ISAS = ['amx', 'avx512bf16', 'avx512', 'avx2', 'baseline'] as const;

/** How {@link NativeBackend.readBandwidth} walks through memory. */
export const READ_PATTERNS = ['halves', 'interleaved', 'prefetch'] as const;
export type ReadPattern = (typeof READ_PATTERNS)[number];

export interface CpuOptions {
  /** One of {@link CPU_ISAS} (env NANOVLLM_CPU_ISA); default: the best this processor has. */
  isa?: string;
  /** Env NANOVLLM_NUM_THREADS; default: the processors this process may use. */
  threads?: number | string;
}

const MAX_THREADS = 256;
/** `packed` weights: outputs come in panels of 16, inputs are padded to 32 (csrc/cpu/pack.h). */
const padTo = (size: number, multiple: number): number => Math.ceil(size / multiple) * multiple;
/** The code of a checkpoint's dtype, as in `Tensor.desc`. */
const DTYPE_CODE: Readonly<Record<FloatDType, number>> = { float32: 0, bfloat16: 1, float16: 2 };

/** The cpu backend of this machine. @throws BackendError when the addon is not built; its `cause` says why. */
export function createNativeBackend(options: CpuOptions = {}): NativeBackend {
  return new NativeBackend(loadAddon(findAddon()), options);
}

/**
 * The op list in C++: threads, SIMD, and matrix units where the processor has them. This class owns
 * the tensors' lifetimes and turns native errors into ours; the kernels are in `csrc/cpu/kernels`.
 */
export class NativeBackend implements Backend {
  readonly name = 'cpu';
  readonly description: string;
  readonly activationDType = 'float32';
  private readonly device: NativeDevice;
  private readonly owned = new Set<Storage>();
  private closed = false;

  /**
   * @throws ConfigError when an option's value is not allowed, BackendError when the processor lacks the
   * instruction set.
   */
  constructor(addon: NativeAddon, options: CpuOptions = {}) {
    const isa = checkIsa(options.isa, addon.availableIsas());
    const threads = checkThreads(options.threads, addon.availableThreads());
    this.device = this.call(() => new addon.CpuDevice(isa, threads));
    this.description = this.device.describe();
  }

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

  allocateWeight(shape: readonly [number, number], dtype: FloatDType): Tensor {
    const storage = this.own(this.bytesOf(padTo(shape[0], 16) * padTo(shape[1], 32), dtype));
    const layout: Layout = 'packed';
    return new Tensor(storage, shape, dtype, undefined, 0, layout);
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

  private own(bytes: number): Storage & { readonly address: number } {
    const storage = { alive: true, address: this.call(() => this.device.allocate(bytes)) };
    this.owned.add(storage);
    return storage;
  }

  // --- transfers ------------------------------------------------------------------------------------

  loadRows(weight: Tensor, firstRow: number, bytes: Uint8Array, dtype: FloatDType): void {
    this.call(() => this.device.loadRows(weight.desc, firstRow, bytes, DTYPE_CODE[dtype]));
  }

  write(tensor: Tensor, values: Float32Array | Int32Array): void {
    const { desc, numel, dtype } = tensor;
    if (values.length !== numel || (dtype === 'int32') !== values instanceof Int32Array) {
      throw new InvalidTensorError(
        `write: expected ${numel} ${dtype} values for a [${tensor.shape}] tensor, got ${values.length} in ` +
          `${values.constructor.name === 'Int32Array' ? 'an Int32Array' : 'a Float32Array'}.`,
      );
    }
    if (dtype === 'int32' || (dtype === 'float32' && tensor.layout === 'strided')) {
      this.call(() => this.device.copyIn(desc, values));
      return;
    }
    // Rounding and packing are what loading does.
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    const target = tensor.layout === 'packed' ? tensor : this.flat(tensor);
    this.loadRows(target, 0, bytes, 'float32');
  }

  async read(tensor: Tensor): Promise<Float32Array | Int32Array> {
    const { desc, numel, dtype } = tensor;
    if (dtype !== 'int32' && dtype !== 'float32') {
      throw new InvalidTensorError(`read: expected a float32 or int32 tensor, got [${tensor.shape}] ${dtype}.`);
    }
    const values = dtype === 'int32' ? new Int32Array(numel) : new Float32Array(numel);
    this.call(() => this.device.copyOut(desc, values));
    return values;
  }

  /** A contiguous tensor as one long vector. */
  private flat(tensor: Tensor): Tensor {
    if (!tensor.isContiguous) throw new InvalidTensorError(`write: [${tensor.shape}] must be contiguous.`);
    return new Tensor(tensor.storage, [tensor.numel], tensor.dtype, undefined, tensor.offset);
  }

  // --- kernels --------------------------------------------------------------------------------------

  embedding(out: Tensor, ids: Tensor, weight: Tensor): void {
    this.call(() => this.device.embedding(out.desc, ids.desc, weight.desc));
  }

  linear(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | null): void {
    this.call(() => this.device.linear(out.desc, x.desc, weight.desc, bias && bias.desc));
  }

  rmsNorm(out: Tensor, x: Tensor, weight: Tensor, eps: number): void {
    this.call(() => this.device.rmsNorm(out.desc, x.desc, weight.desc, eps));
  }

  addRmsNorm(x: Tensor, residual: Tensor, weight: Tensor, eps: number): void {
    this.call(() => this.device.addRmsNorm(x.desc, residual.desc, weight.desc, eps));
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

  attnVarlen(out: Tensor, q: Tensor, k: Tensor, v: Tensor, args: AttnVarlenArgs): void {
    const { cuSeqlensQ, cuSeqlensK, blockTables, softmaxScale, causal, workspace: w } = args;
    const options = [softmaxScale, causal, w?.k.desc, w?.v.desc, w?.scores.desc] as const;
    const tables = blockTables && blockTables.desc;
    this.call(() =>
      this.device.attnVarlen(out.desc, q.desc, k.desc, v.desc, cuSeqlensQ.desc, cuSeqlensK.desc, tables, ...options),
    );
  }

  attnWithKvCache(out: Tensor, q: Tensor, kCache: Tensor, vCache: Tensor, args: AttnWithKvCacheArgs): void {
    const { contextLens, blockTables, softmaxScale, workspace: w } = args;
    const lengths = [contextLens.desc, blockTables.desc] as const;
    const options = [softmaxScale, w?.k.desc, w?.v.desc, w?.scores.desc] as const;
    this.call(() => this.device.attnWithKvCache(out.desc, q.desc, kCache.desc, vCache.desc, ...lengths, ...options));
  }

  gatherRows(out: Tensor, x: Tensor, rows: Tensor): void {
    this.call(() => this.device.gatherRows(out.desc, x.desc, rows.desc));
  }

  sample(out: Tensor, logits: Tensor, args: SampleArgs): void {
    const { temperature, topK, topP, minP, seed, position } = args;
    const filters = [topK.desc, topP.desc, minP.desc] as const;
    this.call(() => this.device.sample(out.desc, logits.desc, temperature.desc, ...filters, seed.desc, position.desc));
  }

  /**
   * The best rate, in bytes a second, of reading `bytes` of memory with all threads during `seconds`:
   * what a decode step is measured against, since it reads every weight once. 1 GiB is enough to be
   * larger than most caches.
   */
  readBandwidth(bytes: number, pattern: ReadPattern, seconds: number): number {
    return this.call(() => this.device.readBandwidth(bytes, READ_PATTERNS.indexOf(pattern), seconds));
  }

  /** Native errors carry a `code`; the rest pass through. */
  private call<T>(body: () => T): T {
    try {
      return body();
    } catch (error) {
      const { code, message } = error as { code?: string; message: string };
      if (code === 'TENSOR') throw new InvalidTensorError(message);
      if (code === 'BACKEND') throw new BackendError(message);
      throw error;
    }
  }
}

function checkIsa(isa: string | undefined, available: readonly string[]): string {
  if (isa === undefined || isa === '') return '';
  if (!(CPU_ISAS as readonly string[]).includes(isa)) {
    throw new ConfigError(`Instruction set '${isa}' (NANOVLLM_CPU_ISA) is unknown. Use one of ${CPU_ISAS.join(', ')}.`);
  }
  if (!available.includes(isa)) {
    throw new BackendError(
      `This processor or build lacks the instruction set '${isa}' (NANOVLLM_CPU_ISA). Available: ${available.join(', ')}.`,
    );
  }
  return isa;
}

function checkThreads(threads: number | string | undefined, available: number): number {
  if (threads === undefined || threads === '') return Math.min(available, MAX_THREADS);
  const count = Number(threads);
  if (!Number.isInteger(count) || count < 1 || count > MAX_THREADS) {
    throw new ConfigError(
      `The number of threads (NANOVLLM_NUM_THREADS) must be a whole number from 1 to ${MAX_THREADS}, got '${threads}'.`,
    );
  }
  return count;
}
