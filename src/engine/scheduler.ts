import type { BlockManager } from '#nano/engine/block-manager';
import type { FinishReason, Sequence } from '#nano/engine/sequence';

/** What one step computes: chunks of prompts, or one token for each running sequence. Never both. */
export interface Batch {
  readonly isPrefill: boolean;
  readonly seqs: readonly Sequence[];
}

export interface SchedulerLimits {
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly maxModelLen: number;
}

/**
 * Continuous batching (Orca, Yu et al. 2022, §3.1): the batch is put together anew for every step, so a
 * request joins when there is room and leaves when it is done, and never waits for its neighbours.
 */
export class Scheduler {
  readonly waiting: Sequence[] = [];
  readonly running: Sequence[] = [];
  numPreemptions = 0;

  constructor(
    private readonly blockManager: BlockManager,
    private readonly limits: SchedulerLimits,
    private readonly eosTokenIds: ReadonlySet<number>,
  ) {}

  get isFinished(): boolean {
    return this.waiting.length === 0 && this.running.length === 0;
  }

  add(seq: Sequence): void {
    this.waiting.push(seq);
  }

  /**
   * Prefill goes first: a new request's first token should not wait for others' last ones, and a
   * larger decode batch uses the weights that each step reads anyway for more requests.
   */
  schedule(): Batch {
    const prefill = this.schedulePrefill();
    if (prefill.length > 0) return { isPrefill: true, seqs: prefill };
    return { isPrefill: false, seqs: this.scheduleDecode() };
  }

  /** Takes waiting sequences in order until the token budget, the sequence limit or the blocks run out. */
  private schedulePrefill(): Sequence[] {
    const scheduled: Sequence[] = [];
    let budget = this.limits.maxNumBatchedTokens;
    while (this.waiting.length > 0 && budget > 0 && this.running.length < this.limits.maxNumSeqs) {
      const seq = this.waiting[0];
      const isStarted = seq.blockTable.length > 0;
      if (!isStarted && !this.blockManager.allocate(seq)) break;
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

  /** One token for every running sequence; the youngest give up their blocks when there are too few. */
  private scheduleDecode(): Sequence[] {
    for (let i = 0; i < this.running.length; i++) {
      const seq = this.running[i];
      while (!this.blockManager.appendSlot(seq)) {
        const victim = this.running.pop();
        if (!victim || this.running.length === 0) {
          throw new Error(`Sequence ${seq.seqId} alone does not fit the KV cache, though maxModelLen must.`);
        }
        this.preempt(victim);
        if (victim === seq) break;
      }
      seq.numScheduledTokens = 1;
    }
    return [...this.running];
  }

  /** Preemption by recompute (Kwon et al. 2023, §4.5): cheaper than swapping for short sequences, and much simpler. */
  private preempt(seq: Sequence): void {
    this.blockManager.deallocate(seq);
    seq.preempt();
    this.waiting.unshift(seq);
    this.numPreemptions++;
  }

  /**
   * Takes a step's results in: `tokenIds[i]` is the token drawn for `batch.seqs[i]`; it is not used for a
   * sequence whose prompt is not yet complete.
   * @returns the sequences that got a token.
   */
  postprocess(batch: Batch, tokenIds: ArrayLike<number>): Sequence[] {
    const advanced: Sequence[] = [];
    batch.seqs.forEach((seq, i) => {
      if (seq.isFinished) return; // aborted while the step ran
      seq.numCachedTokens += seq.numScheduledTokens;
      seq.numScheduledTokens = 0;
      this.blockManager.cacheFullBlocks(seq);
      if (seq.numCachedTokens < seq.numTokens) return;
      seq.appendToken(tokenIds[i]);
      advanced.push(seq);
      const reason = this.finishReason(seq);
      if (reason) this.finish(seq, reason);
    });
    return advanced;
  }

  private finishReason(seq: Sequence): FinishReason | undefined {
    const { ignoreEos, stopTokenIds, maxTokens } = seq.samplingParams;
    if (!ignoreEos && this.eosTokenIds.has(seq.lastToken)) return 'stop';
    if (stopTokenIds.includes(seq.lastToken)) return 'stop';
    if (seq.numOutputTokens >= maxTokens || seq.numTokens >= this.limits.maxModelLen) return 'length';
    return undefined;
  }

  /** Ends a sequence wherever it is, and gives its blocks back. A finished one is left as it is. */
  finish(seq: Sequence, reason: FinishReason): void {
    if (seq.isFinished) return;
    const queue = seq.status === 'waiting' ? this.waiting : this.running;
    queue.splice(queue.indexOf(seq), 1);
    this.blockManager.deallocate(seq);
    seq.finish(reason);
  }
}
