import type { Backend, DeviceGraph } from '#nano/tensor/kernels';
import type { Storage } from '#nano/tensor/tensor';

/** One kernel call with its tensors already chosen. */
export type KernelCall = (backend: Backend) => void;

/**
 * A captured step: the list of its kernel calls. It does for the CPU backends what a CUDA graph does on a GPU, and
 * obeys the same rules. Addresses must not move: its temporaries are where the arena put them, which is the same
 * place at every step. No host value may enter while capturing, and nothing is read back in the middle.
 *
 * What it saves is everything between the kernels: shape checks, tensor objects, scope bookkeeping. That is a few
 * microseconds an operation, and decoding has hundreds of short operations a token. Where the device has graphs, the
 * list was made into one, and a replay is a single call.
 */
export class Recording<T> {
  private graph: DeviceGraph | undefined;

  constructor(
    private readonly calls: readonly KernelCall[],
    private readonly storages: readonly Storage[],
    private readonly result: T,
    private readonly onReplay: () => void,
  ) {}

  /** Makes a graph of the calls, where the device has graphs. */
  captureOn(backend: Backend): void {
    this.graph = this.whileAlive(() => backend.captureGraph?.(() => this.makeCalls(backend)));
  }

  /** Makes the calls and hands the captured result to `use`, which must start its reads before it returns. */
  replay<R>(backend: Backend, use: (result: T) => R): R {
    return this.whileAlive(() => {
      if (this.graph) this.graph.launch();
      else this.makeCalls(backend);
      this.onReplay();
      return use(this.result);
    });
  }

  /** Frees the device's graph, when there is one. */
  free(): void {
    this.graph?.free();
    this.graph = undefined;
  }

  private makeCalls(backend: Backend): void {
    for (const call of this.calls) call(backend);
  }

  /** The step's temporaries can be used within `body`, and only there. */
  private whileAlive<R>(body: () => R): R {
    for (const storage of this.storages) storage.alive = true;
    try {
      return body();
    } finally {
      for (const storage of this.storages) storage.alive = false;
    }
  }
}
