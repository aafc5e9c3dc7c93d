import type { ConfigOptions } from '#nano/config';
import type { Backend } from '#nano/tensor/kernels';

/** What rank 0 tells the others. They do it in order. */
export type ToFollower =
  /** Open this backend and join the group. `uniqueId` names the NCCL communicator, where there is one. */
  | {
      readonly kind: 'join';
      readonly backend: Backend['name'];
      readonly batchInvariant: boolean;
      readonly uniqueId: Uint8Array | null;
    }
  /** Build the model over this rank's shard. */
  | { readonly kind: 'load'; readonly model: string; readonly options: ConfigOptions }
  /** Take memory for so many KV-cache blocks, and capture graphs. */
  | { readonly kind: 'allocate'; readonly numBlocks: number }
  /** Run a step (`step-message.ts`). There is no answer: its results are rank 0's too. */
  | { readonly kind: 'step'; readonly words: Int32Array }
  /** Give everything back, and end. */
  | { readonly kind: 'close' };

/** What the others tell rank 0. */
export type FromFollower =
  /** The weights are there; so many KV-cache blocks would fit. */
  | { readonly kind: 'loaded'; readonly affordableBlocks: number }
  /** Steps may come. */
  | { readonly kind: 'ready'; readonly memory: RankMemory }
  /** This rank cannot go on, and so nobody can. */
  | { readonly kind: 'failed'; readonly message: string };

/** Bytes a rank holds, as its backend counts them. */
export interface RankMemory {
  /** Weights, and the rotary table. */
  readonly modelBytes: number;
  readonly kvCacheBytes: number;
  /** All of it, activations too. */
  readonly allocatedBytes: number;
}
