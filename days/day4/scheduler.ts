// Exercise made from src/engine/scheduler.ts by `npm run days`, which keeps what you write. [67492f2e4e0ee81b]
import type { BlockManager } from '#nano/engine/block-manager';
import type { FinishReason, Sequence } from '#nano/engine/sequence';
import { TodoError } from '#nano/utils/todo';

/** What one step computes: chunks of prompts, or one token for each running sequence. Never both. */
export interface Batch {
  /** Whether these are chunks of prompts. */
  readonly isPrefill: boolean;
  readonly seqs: readonly Sequence[];
  /** `ends[i]`: how many tokens of `seqs[i]` are in the cache after the step. */
  readonly ends: readonly number[];
  /** The first so many sequences draw a token: all, but for a last one whose prompt the next step goes on with. */
  readonly numDrawing: number;
}

export interface SchedulerLimits {
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly maxModelLen: number;
}

/**
 * Plans the next tokens of a sequence that is to be prefilled: all that are not in the cache, or as many of them as the
 * budget has room for. A prompt longer than the budget is thus computed in chunks, one a step (chunked prefill; Sarathi,
 * Agrawal et al. 2023).
 * @returns how many tokens were planned.
 */
export function planTokens(seq: Sequence, budget: number): number {
  // TODO 4.2 (about 2 lines)
  // Set `numScheduledTokens`; nothing else changes. Take the smaller of two numbers.
  throw new TodoError('4.2', 'days/day4/scheduler.ts');
}

/**
 * The batch of these sequences, whose tokens are planned. A sequence draws its next token in the step that computes its
 * last one; before that there is nothing to draw from. Only the last sequence can have been cut by the budget.
 */
export function toBatch(isPrefill: boolean, seqs: readonly Sequence[]): Batch {
  // TODO 4.2 (about 5 lines)
  // In the cache after the step: what is there now, and what is planned.
  // The last sequence is cut when that is less than all its tokens. There may be no sequence at all.
  throw new TodoError('4.2', 'days/day4/scheduler.ts');
}

/**
 * Continuous batching (Orca, Yu et al. 2022, §3.1): the batch is put together anew for every step, so a
 * request joins when there is room and leaves when it is done, and never waits for its neighbours.
 *
 * A step goes through three calls: `schedule` decides, `launched` counts what the step will have done, `postprocess`
 * takes its tokens in. With run-ahead the next step's first two come before this one's third: it is scheduled while the
 * tokens that this one draws are placeholders. That works because a sequence's length, blocks and positions don't
 * depend on which tokens it draws; only its end may, and then a token drawn too many is thrown away.
 *
 * The device runs steps in the order of their launches. So blocks and token slots that a sequence leaves may be given
 * away at once, even if a step in flight still writes to them: whoever gets them writes later, and reads only what he
 * has written.
 */
export class Scheduler {
  /** In the order in which they will be admitted: preempted ones first, the others as they came. */
  readonly waiting: Sequence[] = [];
  /** In the order in which they were admitted. The last is the first to be preempted. */
  readonly running: Sequence[] = [];
  numPreemptions = 0;
  private readonly freeTokenSlots: number[];

  constructor(
    private readonly blockManager: BlockManager,
    private readonly limits: SchedulerLimits,
    private readonly eosTokenIds: ReadonlySet<number>,
  ) {
    this.freeTokenSlots = Array.from({ length: limits.maxNumSeqs }, (_, i) => limits.maxNumSeqs - 1 - i);
  }

  get isFinished(): boolean {
    return this.waiting.length === 0 && this.running.length === 0;
  }

  add(seq: Sequence): void {
    this.waiting.push(seq);
  }

  /**
   * Prefill goes first: a new request's first token should not wait for others' last ones, and a
   * larger decode batch uses the weights that each step reads anyway for more requests.
   *
   * Call it with at most one step in flight, and take that step's results in before the next call.
   * @returns a batch without sequences when there is nothing to compute.
   */
  schedule(): Batch {
    // TODO 4.5 (about 3 lines)
    // Decode only when there is nothing to prefill. `toBatch` makes a batch of either, also of no sequences.
    throw new TodoError('4.5', 'days/day4/scheduler.ts');
  }

  /**
   * Takes waiting sequences, strictly in order, while the token budget, the sequence limit and the blocks allow it, and
   * plans their tokens. One whose prompt ends in this step runs from now on; one that is cut stays at the head of the
   * queue with its blocks, and the next step goes on where this one stops.
   * @returns those that have tokens planned, in order.
   */
  private schedulePrefill(): Sequence[] {
    // TODO 4.3 (about 14 lines)
    // The budget starts at maxNumBatchedTokens. Go on while somebody waits, some of the budget is left, and fewer
    // than maxNumSeqs run.
    // Look at the first in the queue. One that was cut in an earlier step has its blocks (`blockTable`); any other
    // must be admitted. `admit` says false when there are too few blocks: then nobody behind it may overtake.
    // `planTokens` plans, and says what it takes of the budget. When tokens remain that are not planned, stop.
    // Else `shift` the sequence out of the queue, `start` it, and push it to `running`.
    throw new TodoError('4.3', 'days/day4/scheduler.ts');
  }

  /**
   * Blocks for all tokens of a waiting sequence, and a token slot. There are enough slots: those who hold one run, or
   * stand at the head of the queue with a chunked prompt, in the place of the next to run.
   *
   * Its tokens must be known, for they are computed again. They are: if one was in flight when the sequence was
   * preempted, then in the one step that was in flight during that `schedule`. Its results are taken in before the
   * next `schedule`, and no earlier one can prefill the sequence, since a `schedule` that preempts prefills nothing.
   */
  private admit(seq: Sequence): boolean {
    if (seq.numPlaceholders > 0)
      throw new Error(`Sequence ${seq.seqId} cannot be prefilled before its tokens are known.`);
    if (!this.blockManager.allocate(seq)) return false;
    seq.tokenSlot = this.freeTokenSlots.pop() as number;
    return true;
  }

  /**
   * Plans one token for every running sequence, the oldest first; the youngest may lose their blocks to those before
   * them. With run-ahead some only wait to learn their last token: they are full already, and get none.
   * @returns those that have a token planned, in order.
   */
  private scheduleDecode(): Sequence[] {
    // TODO 4.5 (about 8 lines)
    // `makeRoom` may shorten `running` while you walk it: look at its length anew for each sequence.
    // Skip a sequence for which `this.isFull(seq, seq.numTokens)` holds; without run-ahead there is none.
    throw new TodoError('4.5', 'days/day4/scheduler.ts');
  }

  /**
   * Finds a cache slot for the last token of a running sequence; while no block is free, the youngest of all that run
   * is preempted.
   * @returns false when that was the sequence itself.
   * @throws Error when it is the only one that runs: there is nobody left to take blocks from.
   */
  private makeRoom(seq: Sequence): boolean {
    // TODO 4.4 (about 9 lines)
    // `this.blockManager.appendSlot(seq)` says whether the token has a slot now: try until it does.
    // The youngest is the last of `running`. Take it out of there, then `preempt` it.
    throw new TodoError('4.4', 'days/day4/scheduler.ts');
  }

  /**
   * Preemption by recompute (Kwon et al. 2023, §4.5): cheaper than swapping for short sequences, and much simpler. A
   * sequence that was just taken out of `running` gives back what it holds, and is the next to be admitted.
   */
  private preempt(seq: Sequence): void {
    // TODO 4.4 (about 4 lines)
    // `this.release` its blocks first: `seq.preempt()` forgets which they are. Count it in `numPreemptions`.
    throw new TodoError('4.4', 'days/day4/scheduler.ts');
  }

  /** The batch is on its way to the device: what is launched from now on finds its work done. */
  launched(batch: Batch): void {
    batch.seqs.forEach((seq, i) => {
      seq.numCachedTokens = batch.ends[i];
      seq.numScheduledTokens = 0;
      if (i < batch.numDrawing) seq.appendPlaceholder();
    });
  }

  /**
   * Takes a step's results in: `tokenIds[i]` is the token drawn for `batch.seqs[i]`, i < numDrawing. A sequence that
   * ended while the step ran, or by the token before, has no use for its token.
   * @returns the places in the batch of the sequences that got a token.
   */
  postprocess(batch: Batch, tokenIds: ArrayLike<number>): number[] {
    const advanced: number[] = [];
    batch.seqs.forEach((seq, i) => {
      if (seq.isFinished) return;
      // Blocks are made findable only now that the step is known to have succeeded, and up to where it went: all
      // those tokens are known, while a step in flight may be at work on more. Preempted since, it has none.
      this.blockManager.cacheFullBlocks(seq, Math.min(batch.ends[i], seq.numCachedTokens));
      if (i >= batch.numDrawing) return;
      seq.fillPlaceholder(tokenIds[i]);
      advanced.push(i);
      const reason = this.finishReason(seq);
      if (reason) this.finish(seq, reason);
    });
    return advanced;
  }

  /** Whether the last known token of a sequence ends it, and why; undefined when it goes on. A stop wins over a length. */
  private finishReason(seq: Sequence): FinishReason | undefined {
    // TODO 4.1 (about 5 lines)
    // `ignoreEos` concerns the model's own end tokens (`eosTokenIds`), not the request's `stopTokenIds`.
    // Count what is known: `seq.lastToken`, `seq.numKnownTokens`. `tokenIds` may end with a placeholder.
    throw new TodoError('4.1', 'days/day4/scheduler.ts');
  }

  /** Whether its first `numTokens` tokens are all it may have: maxTokens of output, or maxModelLen with the prompt. */
  private isFull(seq: Sequence, numTokens: number): boolean {
    // TODO 4.1 (about 2 lines)
    // Exactly as many are enough. Output begins after `numPromptTokens`.
    throw new TodoError('4.1', 'days/day4/scheduler.ts');
  }

  /** Ends a sequence wherever it is, and gives its blocks back. A finished one is left as it is. */
  finish(seq: Sequence, reason: FinishReason): void {
    if (seq.isFinished) return;
    const queue = seq.status === 'waiting' ? this.waiting : this.running;
    queue.splice(queue.indexOf(seq), 1);
    this.release(seq);
    seq.finish(reason);
  }

  private release(seq: Sequence): void {
    this.blockManager.deallocate(seq);
    if (seq.tokenSlot >= 0) this.freeTokenSlots.push(seq.tokenSlot);
    seq.tokenSlot = -1;
  }
}
