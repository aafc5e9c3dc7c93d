import type { BlockManager } from '#nano/engine/block-manager';
import type { FinishReason, Sequence } from '#nano/engine/sequence';

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
  // solution 4.2 (about 2 lines)
  // hint: Set `numScheduledTokens`; nothing else changes. Take the smaller of two numbers.
  seq.numScheduledTokens = Math.min(seq.numTokens - seq.numCachedTokens, budget);
  return seq.numScheduledTokens;
  // end solution
}

/**
 * The batch of these sequences, whose tokens are planned. A sequence draws its next token in the step that computes its
 * last one; before that there is nothing to draw from. Only the last sequence can have been cut by the budget.
 */
export function toBatch(isPrefill: boolean, seqs: readonly Sequence[]): Batch {
  // solution 4.2 (about 5 lines)
  // hint: In the cache after the step: what is there now, and what is planned.
  // hint: The last sequence is cut when that is less than all its tokens. There may be no sequence at all.
  const ends = seqs.map((seq) => seq.numCachedTokens + seq.numScheduledTokens);
  const last = seqs.length - 1;
  const isCut = last >= 0 && ends[last] < seqs[last].numTokens;
  return { isPrefill, seqs, ends, numDrawing: isCut ? last : seqs.length };
  // end solution
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
    // solution 4.5 (about 3 lines)
    // hint: Decode only when there is nothing to prefill. `toBatch` makes a batch of either, also of no sequences.
    const prefill = this.schedulePrefill();
    if (prefill.length > 0) return toBatch(true, prefill);
    return toBatch(false, this.scheduleDecode());
    // end solution
  }

  /**
   * Takes waiting sequences, strictly in order, while the token budget, the sequence limit and the blocks allow it, and
   * plans their tokens. One whose prompt ends in this step runs from now on; one that is cut stays at the head of the
   * queue with its blocks, and the next step goes on where this one stops.
   * @returns those that have tokens planned, in order.
   */
  private schedulePrefill(): Sequence[] {
    // solution 4.3 (about 14 lines)
    // hint: The budget starts at maxNumBatchedTokens. Go on while somebody waits, some of the budget is left, and fewer
    // hint: than maxNumSeqs run.
    // hint: Look at the first in the queue. One that was cut in an earlier step has its blocks (`blockTable`); any other
    // hint: must be admitted. `admit` says false when there are too few blocks: then nobody behind it may overtake.
    // hint: `planTokens` plans, and says what it takes of the budget. When tokens remain that are not planned, stop.
    // hint: Else `shift` the sequence out of the queue, `start` it, and push it to `running`.
    const scheduled: Sequence[] = [];
    let budget = this.limits.maxNumBatchedTokens;
    while (this.waiting.length > 0 && budget > 0 && this.running.length < this.limits.maxNumSeqs) {
      const seq = this.waiting[0];
      const isAdmitted = seq.blockTable.length > 0;
      if (!isAdmitted && !this.admit(seq)) break;
      budget -= planTokens(seq, budget);
      scheduled.push(seq);
      if (seq.numCachedTokens + seq.numScheduledTokens < seq.numTokens) break;
      this.waiting.shift();
      seq.start();
      this.running.push(seq);
    }
    return scheduled;
    // end solution
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
    // solution 4.5 (about 8 lines)
    // hint: `makeRoom` may shorten `running` while you walk it: look at its length anew for each sequence.
    // hint: Skip a sequence for which `this.isFull(seq, seq.numTokens)` holds; without run-ahead there is none.
    const scheduled: Sequence[] = [];
    for (let i = 0; i < this.running.length; i++) {
      const seq = this.running[i];
      if (this.isFull(seq, seq.numTokens)) continue;
      if (!this.makeRoom(seq)) break;
      seq.numScheduledTokens = 1;
      scheduled.push(seq);
    }
    return scheduled;
    // end solution
  }

  /**
   * Finds a cache slot for the last token of a running sequence; while no block is free, the youngest of all that run
   * is preempted.
   * @returns false when that was the sequence itself.
   * @throws Error when it is the only one that runs: there is nobody left to take blocks from.
   */
  private makeRoom(seq: Sequence): boolean {
    // solution 4.4 (about 9 lines)
    // hint: `this.blockManager.appendSlot(seq)` says whether the token has a slot now: try until it does.
    // hint: The youngest is the last of `running`. Take it out of there, then `preempt` it.
    while (!this.blockManager.appendSlot(seq)) {
      const victim = this.running.pop();
      if (!victim || this.running.length === 0) {
        throw new Error(`Sequence ${seq.seqId} alone does not fit the KV cache, though maxModelLen must.`);
      }
      this.preempt(victim);
      if (victim === seq) return false;
    }
    return true;
    // end solution
  }

  /**
   * Preemption by recompute (Kwon et al. 2023, §4.5): cheaper than swapping for short sequences, and much simpler. A
   * sequence that was just taken out of `running` gives back what it holds, and is the next to be admitted.
   */
  private preempt(seq: Sequence): void {
    // solution 4.4 (about 4 lines)
    // hint: `this.release` its blocks first: `seq.preempt()` forgets which they are. Count it in `numPreemptions`.
    this.release(seq);
    seq.preempt();
    this.waiting.unshift(seq);
    this.numPreemptions++;
    // end solution
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
    // solution 4.1 (about 5 lines)
    // hint: `ignoreEos` concerns the model's own end tokens (`eosTokenIds`), not the request's `stopTokenIds`.
    // hint: Count what is known: `seq.lastToken`, `seq.numKnownTokens`. `tokenIds` may end with a placeholder.
    const { ignoreEos, stopTokenIds } = seq.samplingParams;
    if (!ignoreEos && this.eosTokenIds.has(seq.lastToken)) return 'stop';
    if (stopTokenIds.includes(seq.lastToken)) return 'stop';
    return this.isFull(seq, seq.numKnownTokens) ? 'length' : undefined;
    // end solution
  }

  /** Whether its first `numTokens` tokens are all it may have: maxTokens of output, or maxModelLen with the prompt. */
  private isFull(seq: Sequence, numTokens: number): boolean {
    // solution 4.1 (about 2 lines)
    // hint: Exactly as many are enough. Output begins after `numPromptTokens`.
    const { maxTokens } = seq.samplingParams;
    return numTokens - seq.numPromptTokens >= maxTokens || numTokens >= this.limits.maxModelLen;
    // end solution
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
