import {
  type CudaAddon,
  type CudaNativeDevice,
  findAddon,
  loadAddon,
  type NcclCommunicator,
} from '#nano/backends/addon';
import { NativeBackend } from '#nano/backends/native';
import { BackendError, NanoVllmError } from '#nano/errors';
import { decodeFloats, type FloatDType } from '#nano/tensor/dtype';
import type { AttnVarlenArgs, AttnWithKvCacheArgs, DeviceGraph, QkNormRopeStoreArgs } from '#nano/tensor/kernels';
import type { Tensor } from '#nano/tensor/tensor';

/** `kGemvMaxRows` of csrc/cuda/kernels.h. */
const GEMV_MAX_ROWS = 8;

export interface CudaOptions {
  /** Which GPU, counted from 0. */
  device?: number;
  /** A row's bits never depend on what is computed beside it, at the price of speed (see {@link CudaBackend}). */
  batchInvariant?: boolean;
  /**
   * Programmatic dependent launch, where the GPU has it; default true. NANOVLLM_CUDA_PDL=0 switches it off, for tools that
   * do not know it.
   */
  programmatic?: boolean;
  /**
   * Rungs of the attention ladders (env NANOVLLM_CUDA_PREFILL: scalar, tiled, mma, wgmma; NANOVLLM_CUDA_DECODE: warp, split,
   * packed); default: the fastest this GPU can run.
   */
  prefill?: string;
  decode?: string;
}

/** @throws BackendError when it is not built. */
export const loadCudaAddon = (): CudaAddon => loadAddon<CudaAddon>(findAddon('nanovllm_cuda'));

/** How many GPUs this process can use: 0 as well where the backend is not built. */
export function cudaDeviceCount(): number {
  try {
    return loadCudaAddon().deviceCount();
  } catch {
    return 0;
  }
}

/** The cuda backend of this machine. @throws BackendError saying why there is none; `cause` is set when it is not built. */
export function createCudaBackend(options: CudaOptions = {}): CudaBackend {
  const addon = loadCudaAddon();
  if (addon.deviceCount() === 0) {
    const cause = new Error('no CUDA device');
    throw new BackendError(
      'No NVIDIA GPU can be used: nvidia-smi should list one, with a driver for CUDA 13. ' +
        "Use the backend 'cpu', or 'auto' to take the fastest there is.",
      { cause },
    );
  }
  return new CudaBackend(addon, options);
}

/**
 * The op list on an NVIDIA GPU: `csrc/cuda`. Calls only put work into a stream, in order; {@link read} is what waits.
 *
 * Activations have the model's dtype, bfloat16 or float16; logits are float32, since 16 bits would make ties of
 * neighbouring tokens. Matrix products of up to 8 rows are our own kernel, larger ones cuBLASLt's, whose algorithm depends on the
 * number of rows: a row's last bits may then depend on its batch. `batchInvariant` uses one kernel of our own for all
 * products, and one for all attention, whose bits do not.
 */
export class CudaBackend extends NativeBackend<CudaNativeDevice> {
  readonly name = 'cuda';
  readonly isAsync = true;
  readonly dtypes = ['bfloat16', 'float16'] as const;
  private readonly batchInvariant: boolean;
  private invalid: Error | undefined;

  constructor(
    private readonly addon: CudaAddon,
    options: CudaOptions = {},
  ) {
    const { device = 0, batchInvariant = false, programmatic = true, prefill = '', decode = '' } = options;
    super(() => new addon.CudaDevice(device, batchInvariant, programmatic, prefill, decode));
    this.batchInvariant = batchInvariant;
  }

  activationDType(dtype: FloatDType): FloatDType {
    return dtype;
  }

  /** The kernel for few rows does: it spends its time on the weights. */
  fusesSiluAndMul(rows: number): boolean {
    return rows <= GEMV_MAX_ROWS && !this.batchInvariant;
  }

  /** Bytes of the GPU's memory: what nobody uses now, and all there is. */
  memoryInfo(): { free: number; total: number } {
    return this.call(() => this.device.memoryInfo());
  }

  allocateWeight(shape: readonly [number, number], dtype: FloatDType): Tensor {
    return this.allocate(shape, dtype);
  }

  /** This rank's end of a group of GPUs (`distributed/nccl-group.ts`), which works in this backend's stream. */
  communicator(uniqueId: Uint8Array, rank: number, worldSize: number): NcclCommunicator {
    return this.call(() => new this.addon.NcclCommunicator(this.device, uniqueId, rank, worldSize));
  }

  /**
   * From now on reads, those under way too, and launches of graphs fail with `reason`: what the device computes is no longer
   * what was asked for.
   */
  invalidate(reason: Error): void {
    this.invalid ??= reason;
  }

  private expectValid(): void {
    if (this.invalid) throw this.invalid;
  }

  /** 16-bit tensors are read as float32. */
  async read(tensor: Tensor): Promise<Float32Array | Int32Array> {
    const { desc, numel, dtype } = tensor;
    const start = async (values: Float32Array | Int32Array | Uint16Array) => {
      this.expectValid();
      try {
        await this.call(() => this.device.read(desc, values));
      } finally {
        this.expectValid();
      }
    };
    try {
      if (dtype === 'int32' || dtype === 'float32') {
        const values = dtype === 'int32' ? new Int32Array(numel) : new Float32Array(numel);
        await start(values);
        return values;
      }
      const bits = new Uint16Array(numel);
      await start(bits);
      return decodeFloats(dtype, new Uint8Array(bits.buffer));
    } catch (error) {
      if (error instanceof NanoVllmError) throw error;
      throw new BackendError((error as Error).message);
    }
  }

  captureGraph(run: () => void): DeviceGraph {
    // Once for real: a kernel's first call loads its code, which a capture must not do.
    run();
    const graph = this.capture(run);
    return {
      launch: () => this.launchGraph(graph),
      free: () => this.device.freeGraph(graph),
    };
  }

  private launchGraph(graph: number): void {
    this.expectValid();
    this.call(() => this.device.launchGraph(graph));
  }

  /** Median milliseconds of GPU time that the kernels `run` calls take, captured as a graph and launched `repeats` times. */
  medianMs(run: () => void, repeats: number, warmUps = 3): number {
    const graph = this.capture(run);
    const times = this.call(() => this.device.timeGraph(graph, warmUps + repeats)).slice(warmUps);
    this.device.freeGraph(graph);
    return times.sort()[times.length >> 1];
  }

  /** The number of a graph that holds the kernels `run` calls. */
  private capture(run: () => void): number {
    this.call(() => this.device.beginCapture());
    let graph = 0;
    try {
      run();
    } finally {
      graph = this.call(() => this.device.endCapture()); // after an error too: the stream must leave capture mode
    }
    return graph;
  }

  /** Bytes read and written a second when the GPU copies `bytes` within its memory: the ceiling of all that moves bytes. */
  copyBandwidth(bytes: number, repeats = 10): number {
    return this.call(() => this.device.copyBandwidth(bytes, repeats));
  }

  qkNormRopeStore(q: Tensor, k: Tensor, v: Tensor, args: QkNormRopeStoreArgs): void {
    const { qWeight, kWeight, eps, positions, cosSin, kCache, vCache, slotMapping } = args;
    const norms = [qWeight.desc, kWeight.desc, eps] as const;
    const cache = [kCache.desc, vCache.desc, slotMapping.desc] as const;
    this.call(() =>
      this.device.qkNormRopeStore(q.desc, k.desc, v.desc, ...norms, positions.desc, cosSin.desc, ...cache),
    );
  }

  attnVarlen(out: Tensor, q: Tensor, k: Tensor, v: Tensor, args: AttnVarlenArgs): void {
    const { cuSeqlensQ, cuSeqlensK, blockTables, maxSeqlenQ, maxSeqlenK, softmaxScale, causal, workspace: w } = args;
    const lengths = [cuSeqlensQ.desc, cuSeqlensK.desc, blockTables && blockTables.desc] as const;
    const options = [maxSeqlenQ, maxSeqlenK, softmaxScale, causal, w?.k.desc, w?.v.desc, w?.scores.desc] as const;
    this.call(() => this.device.attnVarlen(out.desc, q.desc, k.desc, v.desc, ...lengths, ...options));
  }

  attnWithKvCache(out: Tensor, q: Tensor, kCache: Tensor, vCache: Tensor, args: AttnWithKvCacheArgs): void {
    const { contextLens, blockTables, maxContextLen, softmaxScale, workspace: w } = args;
    const lengths = [contextLens.desc, blockTables.desc, maxContextLen] as const;
    const options = [softmaxScale, w?.k.desc, w?.v.desc, w?.scores.desc] as const;
    this.call(() => this.device.attnWithKvCache(out.desc, q.desc, kCache.desc, vCache.desc, ...lengths, ...options));
  }
}
