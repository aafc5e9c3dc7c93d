import type { Config } from '#nano/config';
import type { Ranks } from '#nano/distributed/ranks';
import type { ModelFiles } from '#nano/platform/files';
import type { Backend } from '#nano/tensor/kernels';

/** Which part of a host's hardware a rank has. */
export interface RankPlace {
  /** Its GPU, counted from 0. */
  readonly device?: number;
  /** On CPUs: how many ranks share the processors and the memory, default 1. */
  readonly ranksOnHost?: number;
}

export interface BackendOptions extends RankPlace {
  /** See `Config.batchInvariant`; the other backends are so anyway. */
  readonly batchInvariant?: boolean;
}

/** The settings that say where to compute. */
export type WantedRanks = Pick<Config, 'backend' | 'batchInvariant' | 'tensorParallelSize'>;

/** A device that is ready for a model; several, where the config asks for more ranks than one. */
export interface Opened {
  /** This rank's. */
  readonly backend: Backend;
  readonly ranks?: Ranks;
  readonly place: RankPlace;
  /** Ends the other ranks and frees everything. The engine must be closed before. */
  close(): Promise<void>;
}

/**
 * All that differs between Node and a browser. The engine, layers and models import none of Node's
 * modules; `#nano/platform` resolves to the implementation for where they run.
 */
export interface Platform {
  /** A folder, a hub id, or an address. @throws ModelError or HubError when there is no such model. */
  openModel(model: string, onProgress: (message: string) => void): Promise<ModelFiles>;
  /** `auto` takes the fastest there is. @throws BackendError saying why one cannot run here. */
  createBackend(name: 'auto' | 'reference' | 'cpu' | 'cuda', options?: BackendOptions): Backend;
  /**
   * The backend, and the other ranks where there are any: it starts them, or waits for those that a launcher started. In a
   * process that a launcher started as another rank than 0 this serves rank 0, and does not return: the process ends with it.
   * @param model as in {@link openModel}; the other ranks open it too.
   * @throws ConfigError, BackendError or DistributedError. Nothing is left behind then.
   */
  open(model: string, wanted: WantedRanks): Promise<Opened>;
  /** Bytes the KV cache may take when nothing is configured; asked once weights and activations have their memory. */
  kvCacheBudget(backend: Backend, gpuMemoryUtilization: number, place?: RankPlace): number;
  /** How many ranks a launcher started, this process among them; undefined when it was started alone. */
  launchedRanks(): number | undefined;
  env(name: string): string | undefined;
  /** A line that is replaced by the next; null clears it. Does nothing where there is no terminal. */
  showStatus(line: string | null): void;
  /** Lets other work of the event loop run. */
  yieldToEventLoop(): Promise<void>;
}
