import { existsSync, readFileSync, rmSync } from 'node:fs';
import type { NcclCommunicator } from '#nano/backends/addon';
import { type CudaBackend, loadCudaAddon } from '#nano/backends/cuda';
import { callNative } from '#nano/backends/native';
import type { ProcessGroup } from '#nano/distributed/process-group';
import { BackendError, DistributedError } from '#nano/errors';
import type { Tensor } from '#nano/tensor/tensor';

/** Milliseconds between two looks for the other ranks. */
const POLL_MS = 5;

/**
 * Ranks with a GPU each, which exchange tensors through NCCL (`csrc/cuda/nccl.cc`). Collectives go into the backend's stream, and
 * into graphs that it captures: a call returns when the GPU knows of it, and {@link CudaBackend.read} waits for it as for any
 * kernel. Graphs that hold collectives should be freed before the group is closed.
 *
 * NANOVLLM_SKIP_COLLECTIVES=1 leaves out all collectives but the barrier: results are garbage then, and what a step takes less is
 * what communication costs.
 */
export class NcclGroup implements ProcessGroup {
  private failure: DistributedError | undefined;

  private constructor(
    private readonly backend: CudaBackend,
    private readonly native: NcclCommunicator,
    readonly rank: number,
    readonly worldSize: number,
    private readonly skips: boolean,
  ) {}

  /** What all ranks of a group must pass to {@link connect}; one makes it. @throws BackendError when NCCL cannot be loaded. */
  static uniqueId(): Uint8Array {
    return callNative(() => loadCudaAddon().ncclUniqueId());
  }

  /**
   * Resolves when all ranks have found each other. The process does other things meanwhile, and `signal` ends the wait.
   *
   * @throws BackendError when NCCL cannot be loaded, DistributedError when the ranks do not find each other.
   */
  static async connect(
    backend: CudaBackend,
    uniqueId: Uint8Array,
    rank: number,
    worldSize: number,
    signal?: AbortSignal,
  ): Promise<NcclGroup> {
    const native = backend.communicator(uniqueId, rank, worldSize);
    const group = new NcclGroup(backend, native, rank, worldSize, process.env.NANOVLLM_SKIP_COLLECTIVES === '1');
    const who = `Rank ${rank} of ${worldSize} (${backend.description})`;
    try {
      while (!callNative(() => native.ready())) {
        if (signal?.aborted) throw new DistributedError(`${who} gave up looking for the others: ${reasonOf(signal)}`);
        await new Promise((done) => setTimeout(done, POLL_MS));
      }
      unlinkSharedMemory();
      return group;
    } catch (error) {
      native.close();
      if (error instanceof DistributedError) throw error;
      throw new DistributedError(`${who} did not find the others. ${(error as Error).message}`, { cause: error });
    }
  }

  allReduce(x: Tensor): void {
    this.collective(() => this.native.allReduce(x.desc));
  }

  allGather(out: Tensor, x: Tensor): void {
    this.collective(() => this.native.allGather(out.desc, x.desc));
  }

  broadcast(x: Tensor, root: number): void {
    this.collective(() => this.native.broadcast(x.desc, root));
  }

  /** Blocks this thread: two minutes after the first rank has come at the latest, those who wait give up. */
  barrier(): void {
    this.run(() => this.native.barrier());
  }

  abort(message: string): void {
    if (this.failure) return;
    this.failure = new DistributedError(message);
    // In this order: what was read behind a collective that is about to end half done must not be taken for a result.
    this.backend.invalidate(this.failure);
    this.native.abort();
  }

  close(): void {
    this.failure ??= new DistributedError('A process group was used after it was closed.');
    if (this.native.close()) return;
    this.backend.invalidate(
      new DistributedError('A process group was closed while a collective waited for other ranks.'),
    );
  }

  private collective(body: () => void): void {
    if (this.skips) this.expectAlive();
    else this.run(body);
  }

  /** A failure of NCCL's is the end of the group. */
  private run(body: () => void): void {
    this.expectAlive();
    try {
      callNative(body);
    } catch (error) {
      if (!(error instanceof BackendError)) throw error;
      this.abort(`Rank ${this.rank} of ${this.worldSize}: ${error.message}`);
      throw this.failure;
    }
  }

  private expectAlive(): void {
    if (this.failure) throw this.failure;
  }
}

/**
 * NCCL removes the names of its shared memory when a group is closed; a rank that is killed would leave them, and the memory, until
 * the next start of the machine. All ranks of this host have it open by now, and that is what keeps it: it needs no name any more.
 */
function unlinkSharedMemory(): void {
  const maps = existsSync('/proc/self/maps') ? readFileSync('/proc/self/maps', 'utf8') : '';
  for (const [file] of maps.matchAll(/\/dev\/shm\/nccl-\w+$/gm)) rmSync(file, { force: true });
}

function reasonOf(signal: AbortSignal): string {
  return signal.reason instanceof Error ? signal.reason.message : String(signal.reason);
}
