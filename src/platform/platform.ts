import type { ModelFiles } from '#nano/platform/files';
import type { Backend } from '#nano/tensor/kernels';

export interface BackendOptions {
  /** See `Config.batchInvariant`; the other backends are so anyway. */
  readonly batchInvariant?: boolean;
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
  /** Bytes the KV cache may take when nothing is configured; asked once weights and activations have their memory. */
  kvCacheBudget(backend: Backend, gpuMemoryUtilization: number): number;
  env(name: string): string | undefined;
  /** A line that is replaced by the next; null clears it. Does nothing where there is no terminal. */
  showStatus(line: string | null): void;
  /** Lets other work of the event loop run. */
  yieldToEventLoop(): Promise<void>;
}
