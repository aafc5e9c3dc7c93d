import type { Tensor } from '#nano/tensor/tensor';

/**
 * Ranks 0 … worldSize - 1 that compute one model together, each with its shard of the weights. A collective is a call that all
 * of them make, in the same order and with the same shapes; what it gives is the same on every rank, to the last bit, so that
 * ranks which decide anything from it decide alike.
 *
 * Collectives are part of a step like any kernel: on a GPU they go into the backend's stream and into its graphs, and return
 * at once; elsewhere they return when they are done. The names are MPI's and NCCL's.
 */
export interface ProcessGroup {
  readonly rank: number;
  readonly worldSize: number;
  /** Replaces `x` (contiguous, the activation dtype or float32) by the sum of all ranks' `x`. */
  allReduce(x: Tensor): void;
  /** `out[worldSize, …]` = the ranks' `x[…]`, in their order. Contiguous, of one dtype. */
  allGather(out: Tensor, x: Tensor): void;
  /** Replaces `x` by rank `root`'s. */
  broadcast(x: Tensor, root: number): void;
  /** Returns when all ranks have come here, and their devices have done what was launched before. */
  barrier(): void;
  /**
   * Ends the group for this rank: a collective that waits for a rank which will never come fails with a
   * DistributedError of this message, as do all later ones. Calling it twice keeps the first message.
   */
  abort(message: string): void;
  /** Gives back what the group holds. All ranks should have come to the end of their work. */
  close(): void;
}

/** A world of one: every collective is done before it begins. */
export const ALONE: ProcessGroup = {
  rank: 0,
  worldSize: 1,
  allReduce: () => {},
  allGather: (_out, _x) => {
    throw new Error('A rank alone has nothing to gather.');
  },
  broadcast: () => {},
  barrier: () => {},
  abort: () => {},
  close: () => {},
};
