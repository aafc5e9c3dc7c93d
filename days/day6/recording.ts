// Exercise made from src/tensor/recording.ts by `npm run days`, which keeps what you write. [09c7f1f087477056]
import type { Backend, DeviceGraph } from '#nano/tensor/kernels';
import type { Storage } from '#nano/tensor/tensor';
import { TodoError } from '#nano/utils/todo';

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

  /** Where the device has graphs (`backend.captureGraph`), makes one of the calls: replays will launch it. Elsewhere does nothing. */
  captureOn(backend: Backend): void {
    // TODO 6.5 (1 line)
    // `captureGraph(run)` makes the calls within `run`, maybe more than once, and returns the graph. They need their tensors.
    throw new TodoError('6.5', 'days/day6/recording.ts');
  }

  /**
   * The step once more: launches the graph, or makes the calls where there is none; tells `onReplay`; hands the captured result to
   * `use`, which must start its reads before it returns. @returns what `use` returns.
   */
  replay<R>(backend: Backend, use: (result: T) => R): R {
    // TODO 6.5 (about 6 lines)
    // The result's tensors are temporaries as well: they must still be alive in `use`.
    throw new TodoError('6.5', 'days/day6/recording.ts');
  }

  /** Frees the device's graph, when there is one. */
  free(): void {
    this.graph?.free();
    this.graph = undefined;
  }

  private makeCalls(backend: Backend): void {
    for (const call of this.calls) call(backend);
  }

  /**
   * Runs `body`; the step's temporaries can be used within it, and only there, however it ends. Between replays their memory is that of
   * other steps.
   */
  private whileAlive<R>(body: () => R): R {
    // TODO 6.5 (about 6 lines)
    // Every one of `storages` has a flag `alive`. What does JavaScript have for "however it ends"?
    throw new TodoError('6.5', 'days/day6/recording.ts');
  }
}
