import { describe, expect, test } from 'vitest';
import { BlockManager } from '#nano/engine/block-manager';
import { planTokens, Scheduler, toBatch } from '#nano/engine/scheduler';
import { Sequence } from '#nano/engine/sequence';
import { type SamplingOptions, SamplingParams } from '#nano/sampling-params';

const EOS = 0;

function setup(
  options: { blocks?: number; blockSize?: number; maxNumSeqs?: number; budget?: number; maxModelLen?: number } = {},
) {
  const { blocks = 16, blockSize = 4, maxNumSeqs = 4, budget = 32, maxModelLen = 64 } = options;
  const blockManager = new BlockManager(blocks, blockSize);
  const limits = { maxNumSeqs, maxNumBatchedTokens: budget, maxModelLen };
  const scheduler = new Scheduler(blockManager, limits, new Set([EOS]));
  const add = (length: number, params: SamplingOptions = {}, first = 100) => {
    const prompt = Array.from({ length }, (_, i) => first + i);
    const seq = new Sequence(prompt, new SamplingParams({ maxTokens: 50, ...params }), blockSize);
    scheduler.add(seq);
    return seq;
  };
  /** One step in which every sequence draws `token`. */
  const step = (token = 7) => {
    const batch = scheduler.schedule();
    scheduler.launched(batch);
    scheduler.postprocess(
      batch,
      batch.seqs.map(() => token),
    );
    blockManager.checkIntegrity([...scheduler.waiting, ...scheduler.running]);
    return batch;
  };
  return { blockManager, scheduler, add, step };
}

describe('scheduler', () => {
  test('prefill goes first, then all running sequences decode together', () => {
    const { add, step } = setup();
    const [a, b] = [add(3), add(5, {}, 200)];
    expect(step()).toMatchObject({ isPrefill: true, seqs: [a, b] });
    expect(step()).toMatchObject({ isPrefill: false, seqs: [a, b] });
    const c = add(2, {}, 300);
    expect(step()).toMatchObject({ isPrefill: true, seqs: [c] });
    expect(step().seqs).toEqual([a, b, c]);
  });

  test('a prompt over the token budget is prefilled in chunks and draws only after the last', () => {
    const { add, step, scheduler } = setup({ budget: 8 });
    const long = add(19);
    const short = add(2, {}, 300);
    expect(step().seqs).toEqual([long]);
    expect([long.numCachedTokens, long.numOutputTokens, long.status]).toEqual([8, 0, 'waiting']);
    step();
    expect(long.numCachedTokens).toBe(16);
    expect(step().seqs).toEqual([long, short]); // 3 tokens left of one, 2 of the other
    expect([long.numOutputTokens, short.numOutputTokens, scheduler.running.length]).toEqual([1, 1, 2]);
  });

  test('no more than maxNumSeqs run', () => {
    const { add, step } = setup({ maxNumSeqs: 2 });
    const [a, b, c] = [add(2), add(2, {}, 200), add(2, { maxTokens: 2 }, 300)];
    expect(step().seqs).toEqual([a, b]);
    step(EOS); // both end
    expect(step().seqs).toEqual([c]);
  });

  test('the youngest is preempted when blocks run out, and comes back with its output', () => {
    const { add, step, scheduler } = setup({ blocks: 5, maxModelLen: 20 });
    const [a, b] = [add(8), add(8, {}, 200)]; // two full blocks each, one left
    step(); // both draw a token, which has no slot yet
    expect(step().seqs).toEqual([a]); // a takes the last block; b has to go
    expect(b.status).toBe('waiting');
    expect([b.blockTable, b.numCachedTokens, b.numOutputTokens]).toEqual([[], 0, 1]);
    expect(scheduler.numPreemptions).toBe(1);
    step(EOS); // a ends
    const batch = step();
    expect(batch).toMatchObject({ isPrefill: true, seqs: [b] });
    expect(b.numOutputTokens).toBe(2);
  });

  test('token slots: one for each running sequence, given back when it leaves', () => {
    const { add, step } = setup({ maxNumSeqs: 2, budget: 4 });
    const [a, b, c] = [add(2), add(5, {}, 200), add(2, {}, 300)];
    expect([a.tokenSlot, b.tokenSlot]).toEqual([-1, -1]);
    step(); // a's prompt, and a chunk of b's
    expect([a.tokenSlot, b.tokenSlot]).toEqual([0, 1]);
    step();
    expect(c.tokenSlot).toBe(-1);
    step(EOS); // a and b end
    expect([a.tokenSlot, b.tokenSlot]).toEqual([-1, -1]);
    step();
    expect([0, 1]).toContain(c.tokenSlot);
  });

  test('a preempted sequence gives its token slot back, too', () => {
    const { add, step } = setup({ blocks: 5, maxModelLen: 20, maxNumSeqs: 2 });
    const [a, b] = [add(8), add(8, {}, 200)];
    step();
    step(); // b is preempted
    expect([a.tokenSlot, b.tokenSlot]).toEqual([0, -1]);
    step(EOS);
    step();
    expect(b.tokenSlot).toBeGreaterThanOrEqual(0);
  });

  test.each([1, 2, 3, 4, 5, 8, 9])('a prompt of %i tokens with blocks of 4 runs on to its end', (length) => {
    // A one-token warm-up prompt once tripped an engine whose block boundary was off by one.
    const { add, step, blockManager } = setup();
    const seq = add(length, { maxTokens: 9 });
    for (let i = 0; i < 9; i++) step();
    expect([seq.finishReason, seq.numOutputTokens]).toEqual(['length', 9]);
    expect(blockManager.numFreeBlocks).toBe(16);
  });

  test('ends: end-of-sequence, stop token, maxTokens, maxModelLen, ignoreEos', () => {
    const outcome = (params: SamplingOptions, token: number, length = 4) => {
      const { add, step } = setup({ maxModelLen: 8 });
      const seq = add(length, params);
      for (let i = 0; i < 10 && !seq.isFinished; i++) step(token);
      return [seq.finishReason, seq.numOutputTokens];
    };
    expect(outcome({}, EOS)).toEqual(['stop', 1]);
    expect(outcome({ stopTokenIds: [9] }, 9)).toEqual(['stop', 1]);
    expect(outcome({ maxTokens: 3 }, 7)).toEqual(['length', 3]);
    expect(outcome({}, 7)).toEqual(['length', 4]); // 4 + 4 = maxModelLen
    expect(outcome({ ignoreEos: true, maxTokens: 2 }, EOS)).toEqual(['length', 2]);
  });
});

describe('planning', () => {
  const planned = (numTokens: number, numCachedTokens: number, budget: number) => {
    const seq = Object.assign(new Sequence(Array(numTokens).fill(1)), { numCachedTokens });
    return { seq, count: planTokens(seq, budget) };
  };

  test.each([
    [10, 0, 32, 10],
    [10, 4, 32, 6],
    [10, 4, 5, 5],
    [10, 4, 6, 6],
  ])('of %i tokens with %i cached and a budget of %i, %i are planned', (numTokens, cached, budget, expected) => {
    const { seq, count } = planned(numTokens, cached, budget);
    expect([count, seq.numScheduledTokens, seq.numCachedTokens]).toEqual([expected, expected, cached]);
  });

  test('all draw but a last one that is cut; a batch may be empty', () => {
    const [whole, cut] = [planned(6, 2, 9).seq, planned(9, 2, 5).seq];
    expect(toBatch(true, [whole, cut])).toEqual({ isPrefill: true, seqs: [whole, cut], ends: [6, 7], numDrawing: 1 });
    expect(toBatch(true, [whole]).numDrawing).toBe(1);
    expect(toBatch(false, [])).toEqual({ isPrefill: false, seqs: [], ends: [], numDrawing: 0 });
  });
});

describe('queues', () => {
  test('nobody overtakes one for whom there are too few blocks', () => {
    const { add, step, scheduler } = setup({ blocks: 4 });
    const first = add(10); // three blocks
    const [large, small] = [add(6, {}, 200), add(2, {}, 300)];
    expect(step()).toMatchObject({ isPrefill: true, seqs: [first] });
    expect(scheduler.waiting).toEqual([large, small]);
    expect(step()).toMatchObject({ isPrefill: false, seqs: [first] });
  });

  test('the token budget is shared: who comes after it is used up waits', () => {
    const { add, step, scheduler } = setup({ budget: 6 });
    const [a, b, c] = [add(4), add(2, {}, 200), add(1, {}, 300)];
    expect(step().seqs).toEqual([a, b]);
    expect(c.blockTable).toEqual([]);
    expect(scheduler.isFinished).toBe(false);
  });

  test('is finished when nobody waits and nobody runs', () => {
    const { add, step, scheduler } = setup();
    expect(scheduler.isFinished).toBe(true);
    expect(scheduler.schedule()).toMatchObject({ seqs: [], numDrawing: 0 });
    add(2, { maxTokens: 2 });
    expect(scheduler.isFinished).toBe(false);
    step();
    expect(scheduler.isFinished).toBe(false);
    step();
    expect(scheduler.isFinished).toBe(true);
  });

  test('a preempted sequence comes before those that were waiting', () => {
    const { add, step, scheduler } = setup({ blocks: 5, maxModelLen: 20, maxNumSeqs: 2 });
    const [, b, c] = [add(8), add(8, {}, 200), add(2, {}, 300)];
    step();
    step(); // b is preempted
    expect(scheduler.waiting).toEqual([b, c]);
  });

  test('the youngest goes until there is room for the oldest', () => {
    const { add, step, scheduler } = setup({ blocks: 6, maxModelLen: 24 });
    const [a, b, c] = [add(8), add(8, {}, 200), add(8, {}, 300)]; // two full blocks each, none left
    step();
    expect(step().seqs).toEqual([a, b]); // c's blocks are enough for both
    expect([scheduler.waiting, scheduler.running]).toEqual([[c], [a, b]]);
    expect(scheduler.numPreemptions).toBe(1);
  });

  test('a sequence may have to preempt itself', () => {
    const { add, step, scheduler } = setup({ blocks: 4, maxModelLen: 16 });
    const [a, b] = [add(7), add(8, {}, 200)];
    step(); // four blocks are taken; a has a slot left, b has none
    expect(step().seqs).toEqual([a]);
    expect([scheduler.waiting, scheduler.running, b.blockTable]).toEqual([[b], [a], []]);
  });

  test('a cache that cannot hold one sequence alone is a bug that says so', () => {
    const { add, step } = setup({ blocks: 2, maxModelLen: 64 });
    const seq = add(8);
    step();
    expect(() => step()).toThrow(`Sequence ${seq.seqId} alone does not fit the KV cache, though maxModelLen must.`);
  });

  test('a sequence is not prefilled before its tokens are known', () => {
    const { add, scheduler, blockManager } = setup();
    const seq = add(3);
    seq.appendPlaceholder();
    expect(() => scheduler.schedule()).toThrow(
      `Sequence ${seq.seqId} cannot be prefilled before its tokens are known.`,
    );
    expect(blockManager.numFreeBlocks).toBe(16);
  });
});

describe('ends', () => {
  test('one in the middle leaves the others where they are', () => {
    const { add, step, scheduler, blockManager } = setup();
    const [a, b, c] = [add(2), add(2, {}, 200), add(2, {}, 300)];
    const [d, e] = [add(2, {}, 400), add(2, {}, 500)];
    step();
    const f = add(2, {}, 600);
    expect(scheduler.waiting).toEqual([e, f]);
    scheduler.finish(b, 'abort');
    scheduler.finish(e, 'abort');
    expect([scheduler.running, scheduler.waiting]).toEqual([[a, c, d], [f]]);
    expect([b.finishReason, b.tokenSlot, b.blockTable]).toEqual(['abort', -1, []]);
    expect(blockManager.numFreeBlocks).toBe(13);
  });

  test('a finished sequence is left as it is', () => {
    const { add, step, scheduler } = setup({ maxNumSeqs: 2 });
    const [a, b] = [add(2, { maxTokens: 1 }), add(2, {}, 200)];
    step();
    scheduler.finish(a, 'abort');
    expect([a.finishReason, scheduler.running]).toEqual(['length', [b]]);
  });

  test('the only token slot goes from one to the next', () => {
    const { add, step } = setup({ maxNumSeqs: 1 });
    const [a, b] = [add(2, { maxTokens: 1 }), add(2, {}, 200)];
    step();
    step();
    expect([a.tokenSlot, b.tokenSlot]).toEqual([-1, 0]);
  });

  test('one that never had a token slot gives none back', () => {
    const { add, step, scheduler } = setup({ maxNumSeqs: 2 });
    scheduler.finish(add(2), 'abort');
    const seqs = [add(2, {}, 200), add(2, {}, 300)];
    step();
    expect(seqs.map(({ tokenSlot }) => tokenSlot).sort()).toEqual([0, 1]);
  });

  test('a stop wins over a length', () => {
    const { add, step } = setup();
    const [a, b] = [add(2, { maxTokens: 1 }), add(2, { maxTokens: 1, stopTokenIds: [EOS], ignoreEos: true }, 200)];
    step(EOS);
    expect([a.finishReason, b.finishReason]).toEqual(['stop', 'stop']);
  });

  test('who has ended meanwhile, or draws nothing, gets no token; the places of the others are told', () => {
    const { add, scheduler } = setup({ budget: 6 });
    const [a, b, c] = [add(2), add(2, {}, 200), add(9, {}, 300)];
    const batch = scheduler.schedule(); // c is cut
    scheduler.launched(batch);
    expect([a, b, c].map((seq) => [seq.numCachedTokens, seq.numScheduledTokens, seq.numPlaceholders])).toEqual([
      [2, 0, 1],
      [2, 0, 1],
      [2, 0, 0],
    ]);
    scheduler.finish(a, 'abort');
    expect(scheduler.postprocess(batch, [7, 8])).toEqual([1]);
    expect([a.outputTokenIds, b.outputTokenIds, c.outputTokenIds]).toEqual([[], [8], []]);
  });
});
