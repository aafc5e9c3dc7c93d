import type { BlockManager } from '#nano/engine/block-manager';
import type { FinishReason, Sequence } from '#nano/engine/sequence';

/** What one step computes: chunks of prompts, or one token for each running sequence. Never both. */
export interface Batch {
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
  readonly waiting: Sequence[] = [];
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
    const prefill = this.schedulePrefill();
    const seqs = prefill.length > 0 ? prefill : this.scheduleDecode();
    const ends = seqs.map((seq) => seq.numCachedTokens + seq.numScheduledTokens);
    const last = seqs.length - 1;
    const isCut = last >= 0 && ends[last] < seqs[last].numTokens;
    return { isPrefill: prefill.length > 0, seqs, ends, numDrawing: isCut ? last : seqs.length };
  }

  /** Takes waiting sequences in order until the token budget, the sequence limit or the blocks run out. */
  private schedulePrefill(): Sequence[] {
    const scheduled: Sequence[] = [];
    let budget = this.limits.maxNumBatchedTokens;
    while (this.waiting.length > 0 && budget > 0 && this.running.length < this.limits.maxNumSeqs) {
      const seq = this.waiting[0];
      const isStarted = seq.blockTable.length > 0;
      if (!isStarted && !this.admit(seq)) break;
      const remaining = seq.numTokens - seq.numCachedTokens;
      // Chunked prefill (Sarathi, Agrawal et al. 2023): a prompt longer than the budget keeps its place at
      // the head of the queue, and the next step goes on where this one stops.
      seq.numScheduledTokens = Math.min(remaining, budget);
      budget -= seq.numScheduledTokens;
      scheduled.push(seq);
      if (seq.numScheduledTokens < remaining) break;
      this.waiting.shift();
      seq.start();
      this.running.push(seq);
    }
    return scheduled;
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

  /** One token for every running sequence, but for those that only wait to learn their last one. */
  private scheduleDecode(): Sequence[] {
    const scheduled: Sequence[] = [];
    for (let i = 0; i < this.running.length; i++) {
      const seq = this.running[i];
      if (this.isFull(seq, seq.numTokens)) continue;
      if (!this.makeRoom(seq)) break;
      seq.numScheduledTokens = 1;
      scheduled.push(seq);
    }
    return scheduled;
  }

  /**
   * A cache slot for the sequence's last token; the youngest give up their blocks while there are too few.
   * @returns false when it was the youngest itself.
   */
  private makeRoom(seq: Sequence): boolean {
    while (!this.blockManager.appendSlot(seq)) {
      const victim = this.running.pop();
      if (!victim || this.running.length === 0) {
        throw new Error(`Sequence ${seq.seqId} alone does not fit the KV cache, though maxModelLen must.`);
      }
      this.preempt(victim);
      if (victim === seq) return false;
    }
    return true;
  }

  /** Preemption by recompute (Kwon et al. 2023, §4.5): cheaper than swapping for short sequences, and much simpler. */
  private preempt(seq: Sequence): void {
    this.release(seq);
    seq.preempt();
    this.waiting.unshift(seq);
    this.numPreemptions++;
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

  private finishReason(seq: Sequence): FinishReason | undefined {
    const { ignoreEos, stopTokenIds } = seq.samplingParams;
    if (!ignoreEos && this.eosTokenIds.has(seq.lastToken)) return 'stop';
    if (stopTokenIds.includes(seq.lastToken)) return 'stop';
    return this.isFull(seq, seq.numKnownTokens) ? 'length' : undefined;
  }

  /** Whether it has reached its length with its first `numTokens` tokens. */
  private isFull(seq: Sequence, numTokens: number): boolean {
    const { maxTokens } = seq.samplingParams;
    return numTokens - seq.numPromptTokens >= maxTokens || numTokens >= this.limits.maxModelLen;
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
