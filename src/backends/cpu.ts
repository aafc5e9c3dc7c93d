import { type CpuAddon, type CpuNativeDevice, findAddon, loadAddon } from '#nano/backends/addon';
import { checkCopyOut } from '#nano/backends/host-values';
import { NativeBackend } from '#nano/backends/native';
import { BackendError, ConfigError, InvalidTensorError } from '#nano/errors';
import type { FloatDType } from '#nano/tensor/dtype';
import type { AttnVarlenArgs, AttnWithKvCacheArgs } from '#nano/tensor/kernels';
import { type Layout, Tensor } from '#nano/tensor/tensor';

/** Fastest first. Each includes all that follow it. */
export const CPU_ISAS = ['amx', 'avx512bf16', 'avx512', 'avx2', 'baseline'] as const;

/** How {@link CpuBackend.readBandwidth} walks through memory. */
export const READ_PATTERNS = ['halves', 'interleaved', 'prefetch'] as const;
export type ReadPattern = (typeof READ_PATTERNS)[number];

export interface CpuOptions {
  /** One of {@link CPU_ISAS} (env NANOVLLM_CPU_ISA); default: the best this processor has. */
  isa?: string;
  /** Env NANOVLLM_NUM_THREADS; default: the processors this process may use. */
  threads?: number | string;
  /** Ranks that share the processors, default 1: each takes its part of the threads. */
  ranksOnHost?: number;
}

const MAX_THREADS = 256;
/** `packed` weights: outputs come in panels of 16, inputs are padded to 32 (csrc/cpu/pack.h). */
const padTo = (size: number, multiple: number): number => Math.ceil(size / multiple) * multiple;
/** The cpu backend of this machine. @throws BackendError when the addon is not built; its `cause` says why. */
export function createCpuBackend(options: CpuOptions = {}): CpuBackend {
  return new CpuBackend(loadAddon<CpuAddon>(findAddon('nanovllm')), options);
}

/** The op list with threads, SIMD, and matrix units where the processor has them: `csrc/cpu`. Activations are float32. */
export class CpuBackend extends NativeBackend<CpuNativeDevice> {
  readonly name = 'cpu';
  readonly isAsync = false;
  readonly dtypes = ['float32', 'bfloat16', 'float16'] as const;

  /**
   * @throws ConfigError when an option's value is not allowed, BackendError when the processor lacks the
   * instruction set.
   */
  constructor(addon: CpuAddon, options: CpuOptions = {}) {
    const isa = checkIsa(options.isa, addon.availableIsas());
    const all = checkThreads(options.threads, addon.availableThreads());
    const threads = Math.max(1, Math.floor(all / (options.ranksOnHost ?? 1)));
    super(() => new addon.CpuDevice(isa, threads));
  }

  activationDType(): FloatDType {
    return 'float32';
  }

  allocateWeight(shape: readonly [number, number], dtype: FloatDType): Tensor {
    const storage = this.own(this.bytesOf(padTo(shape[0], 16) * padTo(shape[1], 32), dtype));
    const layout: Layout = 'packed';
    return new Tensor(storage, shape, dtype, undefined, 0, layout);
  }

  async read(tensor: Tensor): Promise<Float32Array | Int32Array> {
    const values = tensor.dtype === 'int32' ? new Int32Array(tensor.numel) : new Float32Array(tensor.numel);
    this.copyOut(tensor, values);
    return values;
  }

  /** What {@link read} does, at once and into an array that is there; it may lie in shared memory. */
  copyOut(tensor: Tensor, into: Float32Array | Int32Array): void {
    const { dtype, shape } = tensor;
    if (dtype !== 'int32' && dtype !== 'float32') {
      throw new InvalidTensorError(`copyOut: expected a float32 or int32 tensor, got [${shape}] ${dtype}.`);
    }
    checkCopyOut(tensor, into);
    this.call(() => this.device.copyOut(tensor.desc, into));
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

  /**
   * The best rate, in bytes a second, of reading `bytes` of memory with all threads during `seconds`:
   * what a decode step is measured against, since it reads every weight once. 1 GiB is enough to be
   * larger than most caches.
   */
  readBandwidth(bytes: number, pattern: ReadPattern, seconds: number): number {
    return this.call(() => this.device.readBandwidth(bytes, READ_PATTERNS.indexOf(pattern), seconds));
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
