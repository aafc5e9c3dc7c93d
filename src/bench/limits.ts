import { CpuBackend, READ_PATTERNS } from '#nano/backends/cpu';
import { CudaBackend } from '#nano/backends/cuda';
import { RandomPool } from '#nano/bench/inputs';
import type { Backend } from '#nano/tensor/kernels';

/** What this machine can do at best, measured: figures are judged by it. */
export interface Limits {
  /** Bytes of memory read a second; on a GPU read and written by a copy within its memory. */
  readonly bandwidth: number;
  /** Operations (multiplications and additions) a second of a large 16-bit matrix product. */
  readonly matrixRate: number;
}

const PROBE_BYTES = 2 ** 30;
const PLAIN = { bias: null, accumulate: false, siluAndMul: false };

/** @returns undefined for the reference backend, which is not judged by the machine. */
export function measureLimits(backend: Backend, log: (line: string) => void): Limits | undefined {
  let limits: Limits | undefined;
  if (backend instanceof CudaBackend) {
    limits = { bandwidth: backend.copyBandwidth(PROBE_BYTES), matrixRate: gpuMatrixRate(backend) };
  } else if (backend instanceof CpuBackend) {
    limits = { bandwidth: readBandwidth(backend, log), matrixRate: cpuMatrixRate(backend) };
  }
  if (limits) {
    const [gigabytes, teraops] = [limits.bandwidth / 1e9, limits.matrixRate / 1e12];
    log(`limits: memory ${gigabytes.toFixed(1)} GB/s, matrix products ${teraops.toPrecision(3)} TFLOP/s`);
  }
  return limits;
}

/** The best of three access patterns over 1 GiB. */
function readBandwidth(backend: CpuBackend, log: (line: string) => void): number {
  const rates = READ_PATTERNS.map((pattern) => backend.readBandwidth(PROBE_BYTES, pattern, 1.5));
  log(`read bandwidth: ${READ_PATTERNS.map((name, i) => `${name} ${(rates[i] / 1e9).toFixed(1)}`).join(', ')} GB/s`);
  return Math.max(...rates);
}

function cpuMatrixRate(backend: CpuBackend): number {
  const [rows, size] = [1024, 4096];
  const weight = backend.allocateWeight([size, size], 'bfloat16');
  const [x, out] = [backend.allocate([rows, size], 'float32'), backend.allocate([rows, size], 'float32')];
  let best = Infinity;
  for (let i = 0; i < 3; i++) {
    const started = performance.now();
    backend.linear(out, x, weight, PLAIN);
    best = Math.min(best, (performance.now() - started) / 1000);
  }
  return (2 * rows * size * size) / best;
}

/** Four weights take turns, so that no cache holds one. */
function gpuMatrixRate(backend: CudaBackend): number {
  const size = 8192;
  const matrix = [size, size];
  const [x, ...weights] = new RandomPool(backend, 5 * size * size).cut(matrix, matrix, matrix, matrix, matrix);
  const out = backend.allocate([size, size], 'bfloat16');
  const run = () => weights.forEach((weight) => backend.linear(out, x, weight, PLAIN));
  run();
  return (weights.length * 2 * size ** 3) / (backend.medianMs(run, 30) / 1000);
}
