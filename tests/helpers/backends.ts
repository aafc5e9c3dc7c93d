import { BackendError } from '#nano/errors';
import { platform } from '#nano/platform';

/**
 * The backends that run anywhere and compute in float32. Without a C++ compiler there is no addon, and the tests pass on
 * `reference` alone; CI, where there is one, must not get away with that.
 */
export const TEST_BACKENDS: readonly ('reference' | 'cpu')[] = runs('cpu', process.env.NANOVLLM_REQUIRE_CPU)
  ? ['reference', 'cpu']
  : ['reference'];

/** Whether this machine has a GPU that the cuda backend was built for. The tests in `cuda/` are skipped without. */
export const HAS_CUDA = runs('cuda', process.env.NANOVLLM_REQUIRE_CUDA);

function runs(name: 'cpu' | 'cuda', required: string | undefined): boolean {
  try {
    platform.createBackend(name).close();
    return true;
  } catch (error) {
    if (!(error instanceof BackendError) || required) throw error;
    return false;
  }
}
