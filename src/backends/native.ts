import { BackendError } from '#nano/errors';
import type { Backend } from '#nano/tensor/kernels';
export function createNativeBackend(_: { isa?: string; threads?: string }): Backend {
  throw new BackendError('not yet', { cause: 1 });
}
