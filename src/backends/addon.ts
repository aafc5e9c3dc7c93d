import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { BackendError } from '#nano/errors';

/** A `Tensor.desc`: how tensors cross into C++ (`csrc/tensor.h`). */
type Desc = Float64Array;
type Maybe = Desc | null;

/** `csrc/cpu/binding.cc`. Every method may throw an error whose `code` is TENSOR or BACKEND. */
export interface NativeDevice {
  describe(): string;
  /** Zeroed memory; returns its address. */
  allocate(bytes: number): number;
  free(address: number): void;
  allocatedBytes(): number;
  /** Stops the threads and frees all memory. */
  close(): void;
  loadRows(weight: Desc, firstRow: number, bytes: Uint8Array, dtypeCode: number): void;
  copyIn(tensor: Desc, values: Float32Array | Int32Array): void;
  copyOut(tensor: Desc, values: Float32Array | Int32Array): void;
  embedding(out: Desc, ids: Desc, weight: Desc): void;
  linear(out: Desc, x: Desc, weight: Desc, bias: Maybe): void;
  rmsNorm(out: Desc, x: Desc, weight: Desc, eps: number): void;
  addRmsNorm(x: Desc, residual: Desc, weight: Desc, eps: number): void;
  siluAndMul(out: Desc, x: Desc): void;
  rotaryEmbedding(q: Desc, k: Desc, positions: Desc, cosSin: Desc): void;
  storeKvCache(k: Desc, v: Desc, kCache: Desc, vCache: Desc, slotMapping: Desc): void;
  // biome-ignore format: one line of inputs, one of options
  attnVarlen(out: Desc, q: Desc, k: Desc, v: Desc, cuSeqlensQ: Desc, cuSeqlensK: Desc, blockTables: Maybe,
    scale: number, causal: boolean, denseK?: Desc, denseV?: Desc, scores?: Desc): void;
  // biome-ignore format: one line of inputs, one of options
  attnWithKvCache(out: Desc, q: Desc, kCache: Desc, vCache: Desc, contextLens: Desc, blockTables: Desc,
    scale: number, denseK?: Desc, denseV?: Desc, scores?: Desc): void;
  gatherRows(out: Desc, x: Desc, rows: Desc): void;
  // biome-ignore format: the parameters of one row, in order
  sample(out: Desc, logits: Desc, temperature: Desc, topK: Desc, topP: Desc, minP: Desc, seed: Desc, position: Desc): void;
  /** Bytes a second; the pattern's number is its index in `READ_PATTERNS`. */
  readBandwidth(bytes: number, pattern: number, seconds: number): number;
}

/** What `csrc/addon.cc` exports. */
export interface NativeAddon {
  CpuDevice: new (isa: string, threads: number) => NativeDevice;
  /** Instruction sets that were compiled in and run here, best first. */
  availableIsas(): string[];
  /** Processors this process may use. */
  availableThreads(): number;
}

const BUILT_FILE = 'build/Release/nanovllm.node';

/** `build/Release/nanovllm.node` in the nearest folder above this file that has one. */
export function findAddon(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (true) {
    const file = join(folder, BUILT_FILE);
    if (existsSync(file) || dirname(folder) === folder) return file;
    folder = dirname(folder);
  }
}

/** @throws BackendError with remedies when the file is missing or cannot be loaded; `cause` says why. */
export function loadAddon(path: string): NativeAddon {
  try {
    return createRequire(import.meta.url)(path) as NativeAddon;
  } catch (cause) {
    const problem = existsSync(path) ? `could not be loaded: ${(cause as Error).message}` : 'has not been built';
    throw new BackendError(
      `The native addon (${BUILT_FILE}) ${problem}.\n` +
        '- Build it with `npm run build`. It needs CMake and a C++17 compiler (g++ 12, clang 14, or newer).\n' +
        '- After a change of Node version or machine, build it again.\n' +
        "- Without a compiler, use the backend 'reference': the same results, slower.",
      { cause },
    );
  }
}
