import { BackendError } from '#nano/errors';
import { platform } from '#nano/platform';

/**
 * The backends that run here. Without a C++ compiler there is no addon, and the tests pass on `reference` alone; CI,
 * where there is one, must not get away with that.
 */
export const TEST_BACKENDS: readonly ('reference' | 'cpu')[] = hasCpuBackend() ? ['reference', 'cpu'] : ['reference'];

function hasCpuBackend(): boolean {
  try {
    platform.createBackend('cpu').close();
    return true;
  } catch (error) {
    if (!(error instanceof BackendError) || process.env.NANOVLLM_REQUIRE_CPU) throw error;
    return false;
  }
}
