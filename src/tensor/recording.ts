import type { Backend } from '#nano/tensor/kernels';
import type { Storage } from '#nano/tensor/tensor';

/** One kernel call with its tensors already chosen. */
export type KernelCall = (backend: Backend) => void;

/**
 * A captured step: the list of its kernel calls. It does for the CPU backends what a CUDA graph does on a GPU, and obeys the
 * same rules. Addresses must not move: its temporaries are where the arena put them, which is the same place at every
 * step. No host value may enter while capturing, and nothing is read back in the middle.
 *
 * What it saves is everything between the kernels: shape checks, tensor objects, scope bookkeeping. That is a few
 * microseconds an operation, and decoding has hundreds of short operations a token.
 */
export class Recording<T> {
  constructor(
    private readonly calls: readonly KernelCall[],
    private readonly storages: readonly Storage[],
    private readonly result: T,
  ) {}

  /** Makes the calls and hands the captured result to `use`, which must start its reads before it returns. */
  replay<R>(backend: Backend, use: (result: T) => R): R {
    for (const storage of this.storages) storage.alive = true;
    try {
      for (const call of this.calls) call(backend);
      return use(this.result);
    } finally {
      for (const storage of this.storages) storage.alive = false;
    }
  }
}
