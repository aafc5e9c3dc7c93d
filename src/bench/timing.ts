import { CudaBackend } from '#nano/backends/cuda';
import type { RandomPool } from '#nano/bench/inputs';
import type { Backend } from '#nano/tensor/kernels';
import type { Tensor } from '#nano/tensor/tensor';

/** One measurement walks through this much memory, so that no cache of the GPU holds its inputs: as if each set were a layer. */
const ROTATED_BYTES = 256e6;
/** Small inputs stay in the cache, as they do between the kernels of a model. */
const MAX_SETS = 64;
const SLOW_MS = 50;
const MIN_CALLS = 8;

/** As many sets of tensors of these shapes as it takes. */
export function rotated(pool: RandomPool, ...shapes: (readonly number[])[]): Tensor[][] {
  const bytes = 2 * shapes.reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0);
  const sets = Math.min(MAX_SETS, Math.ceil(ROTATED_BYTES / bytes));
  const tensors = pool.cut(...Array.from({ length: sets }, () => shapes).flat());
  return Array.from({ length: sets }, (_, i) => tensors.slice(i * shapes.length, (i + 1) * shapes.length));
}

/**
 * GPU milliseconds of one call, with every set of inputs in turn: captured in one graph, whose launches are timed.
 * @returns null for what is too slow to wait for.
 */
export function timed(backend: Backend, inputs: readonly Tensor[][], call: (set: Tensor[]) => void): number | null {
  if (!(backend instanceof CudaBackend)) throw new Error(`Only a GPU is timed by its graphs, not ${backend.name}.`);
  const once = () => call(inputs[0]);
  once(); // the first call of a kernel loads its code, which cannot be captured
  const first = backend.medianMs(once, 1, 1);
  if (first > SLOW_MS) return null;
  // Launching a graph takes some microseconds itself: several calls share it.
  const rounds = Math.ceil(MIN_CALLS / inputs.length);
  const all = () => {
    for (let i = 0; i < rounds; i++) inputs.forEach(call);
  };
  const calls = rounds * inputs.length;
  const repeats = Math.min(20, Math.max(3, Math.ceil(200 / (first * calls))));
  return backend.medianMs(all, repeats) / calls;
}
