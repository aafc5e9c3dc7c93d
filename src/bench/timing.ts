import { CudaBackend } from '#nano/backends/cuda';
import type { RandomPool } from '#nano/bench/inputs';
import type { Backend } from '#nano/tensor/kernels';
import type { Tensor } from '#nano/tensor/tensor';

/** One measurement walks through this much memory, so that no cache of the GPU holds its inputs: as if each set were a layer. */
const ROTATED_BYTES = 256e6;
const SLOW_MS = 50;

/** As many sets of tensors of these shapes as it takes. */
export function rotated(pool: RandomPool, ...shapes: (readonly number[])[]): Tensor[][] {
  const bytes = 2 * shapes.reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0);
  const sets = Math.ceil(ROTATED_BYTES / bytes);
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
  const all = () => inputs.forEach(call);
  const repeats = Math.min(20, Math.max(3, Math.ceil(200 / (first * inputs.length))));
  return backend.medianMs(all, repeats) / inputs.length;
}
