import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename } from 'node:path';
import { BackendError } from '#nano/errors';
import { findUp } from '#nano/platform/find-up';

/** A `Tensor.desc`: how tensors cross into C++ (`csrc/tensor.h`). */
type Desc = Float64Array;
type Maybe = Desc | null;

/** What both devices have. Every method may throw an error whose `code` is TENSOR or BACKEND. */
export interface NativeDevice {
  describe(): string;
  /** Zeroed memory; returns its address. */
  allocate(bytes: number): number;
  free(address: number): void;
  allocatedBytes(): number;
  /** Frees all memory. */
  close(): void;
  loadRows(weight: Desc, firstRow: number, bytes: Uint8Array, dtypeCode: number): void;
  copyIn(tensor: Desc, values: Float32Array | Int32Array): void;
  embedding(out: Desc, ids: Desc, weight: Desc, firstRow: number | null): void;
  /** The cpu does not look at `siluAndMul`, which it never gets. */
  linear(out: Desc, x: Desc, weight: Desc, bias: Maybe, accumulate: boolean, siluAndMul: boolean): void;
  rmsNorm(out: Desc, x: Desc, weight: Desc, eps: number): void;
  siluAndMul(out: Desc, x: Desc): void;
  rotaryEmbedding(q: Desc, k: Desc, positions: Desc, cosSin: Desc): void;
  storeKvCache(k: Desc, v: Desc, kCache: Desc, vCache: Desc, slotMapping: Desc): void;
  gatherRows(out: Desc, x: Desc, rows: Desc): void;
  gatherTokens(out: Desc, table: Desc, slots: Desc): void;
  scatterTokens(table: Desc, values: Desc, slots: Desc): void;
  concatColumns(out: Desc, parts: Desc): void;
  // biome-ignore format: the parameters of one row, in order
  sample(out: Desc, logits: Desc, temperature: Desc, topK: Desc, topP: Desc, minP: Desc, seed: Desc, position: Desc): void;
}

/** `csrc/cpu/binding.cc`. */
export interface CpuNativeDevice extends NativeDevice {
  copyOut(tensor: Desc, values: Float32Array | Int32Array): void;
  // biome-ignore format: one line of inputs, one of options
  attnVarlen(out: Desc, q: Desc, k: Desc, v: Desc, cuSeqlensQ: Desc, cuSeqlensK: Desc, blockTables: Maybe,
    scale: number, causal: boolean, denseK?: Desc, denseV?: Desc, scores?: Desc): void;
  // biome-ignore format: one line of inputs, one of options
  attnWithKvCache(out: Desc, q: Desc, kCache: Desc, vCache: Desc, contextLens: Desc, blockTables: Desc,
    scale: number, denseK?: Desc, denseV?: Desc, scores?: Desc): void;
  /** Bytes a second; the pattern's number is its index in `READ_PATTERNS`. */
  readBandwidth(bytes: number, pattern: number, seconds: number): number;
}

/** `csrc/cuda/addon.cc`. */
export interface CudaNativeDevice extends NativeDevice {
  memoryInfo(): { free: number; total: number };
  /** Fills `values` with what the tensor holds now, when the device gets there. */
  read(tensor: Desc, values: Float32Array | Int32Array | Uint16Array): Promise<void>;
  beginCapture(): void;
  /** The new graph's number. */
  endCapture(): number;
  launchGraph(graph: number): void;
  freeGraph(graph: number): void;
  timeGraph(graph: number, repeats: number): Float32Array;
  copyBandwidth(bytes: number, repeats: number): number;
  // biome-ignore format: the projection, the norms, the positions, the cache
  qkNormRopeStore(q: Desc, k: Desc, v: Desc, qWeight: Desc, kWeight: Desc, eps: number, positions: Desc, cosSin: Desc,
    kCache: Desc, vCache: Desc, slotMapping: Desc): void;
  // biome-ignore format: one line of inputs, one of options
  attnVarlen(out: Desc, q: Desc, k: Desc, v: Desc, cuSeqlensQ: Desc, cuSeqlensK: Desc, blockTables: Maybe,
    maxSeqlenQ: number, maxSeqlenK: number, scale: number, causal: boolean, denseK?: Desc, denseV?: Desc, scores?: Desc): void;
  // biome-ignore format: one line of inputs, one of options
  attnWithKvCache(out: Desc, q: Desc, kCache: Desc, vCache: Desc, contextLens: Desc, blockTables: Desc,
    maxContextLen: number, scale: number, denseK?: Desc, denseV?: Desc, scores?: Desc): void;
}

/** `csrc/cuda/nccl_binding.cc`: one rank's end of a group. Collectives go into the device's stream. */
export interface NcclCommunicator {
  /** Whether all ranks have found each other. Throws when they never will. */
  ready(): boolean;
  allReduce(x: Desc): void;
  allGather(out: Desc, x: Desc): void;
  broadcast(x: Desc, root: number): void;
  /** Blocks until all ranks are there, two minutes at most. */
  barrier(): void;
  /** Ends what waits for other ranks, on the GPU too. Returns at once. */
  abort(): void;
  /** False when the work in the stream did not end by itself within seconds. */
  close(): boolean;
}

/** What `csrc/addon.cc` exports. */
export interface CpuAddon {
  CpuDevice: new (isa: string, threads: number) => CpuNativeDevice;
  /** Instruction sets that were compiled in and run here, best first. */
  availableIsas(): string[];
  /** Processors this process may use. */
  availableThreads(): number;
}

/** What `csrc/cuda/addon.cc` exports. */
export interface CudaAddon {
  CudaDevice: new (
    ordinal: number,
    batchInvariant: boolean,
    programmatic: boolean,
    prefillRung: string,
    decodeRung: string,
  ) => CudaNativeDevice;
  /** Attention kernels in this build, simplest first. */
  readonly prefillRungs: readonly string[];
  readonly decodeRungs: readonly string[];
  /** GPUs this process can use; 0 without a driver. */
  deviceCount(): number;
  NcclCommunicator: new (
    device: CudaNativeDevice,
    uniqueId: Uint8Array,
    rank: number,
    worldSize: number,
  ) => NcclCommunicator;
  /** 128 bytes that all ranks of a group must have. Throws where NCCL cannot be loaded. */
  ncclUniqueId(): Uint8Array;
  /** Such as '2.28.9'. */
  ncclVersion(): string;
}

const BUILD_FOLDER = 'build/Release';

/** `build/Release/NAME.node`. */
export const findAddon = (name: 'nanovllm' | 'nanovllm_cuda'): string => findUp(`${BUILD_FOLDER}/${name}.node`);

/** @throws BackendError with remedies when the file is missing or cannot be loaded; `cause` says why. */
export function loadAddon<Addon extends CpuAddon | CudaAddon>(path: string): Addon {
  try {
    return createRequire(import.meta.url)(path) as Addon;
  } catch (cause) {
    const problem = existsSync(path) ? `could not be loaded: ${(cause as Error).message}` : 'has not been built';
    const needs = path.includes('cuda')
      ? '- Build it with `npm run build`. It needs an NVIDIA GPU, the CUDA toolkit (nvcc) and CMake; what is missing is said then.\n'
      : '- Build it with `npm run build`. It needs CMake and a C++17 compiler (g++ 12, clang 14, or newer).\n';
    throw new BackendError(
      `The native addon (${BUILD_FOLDER}/${basename(path)}) ${problem}.\n${needs}` +
        '- After a change of Node version or machine, build it again.\n' +
        "- Without a compiler, use the backend 'reference': the same results, slower.",
      { cause },
    );
  }
}
