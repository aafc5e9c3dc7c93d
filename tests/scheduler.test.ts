import { describe, expect, test } from 'vitest';
import { BlockManager } from '#nano/engine/block-manager';
import { Scheduler } from '#nano/engine/scheduler';
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

describe('block manager', () => {
  const sequence = (tokens: number[]) => new Sequence(tokens, new SamplingParams(), 4);
  const range = (n: number, first = 0) => Array.from({ length: n }, (_, i) => first + i);
  const computed = (manager: BlockManager, seq: Sequence) => {
    seq.numCachedTokens = seq.numTokens;
    manager.cacheFullBlocks(seq, seq.numTokens);
  };

  test('a common prefix is shared block by block, while in use and after', () => {
    const manager = new BlockManager(8, 4);
    const [a, b] = [sequence(range(11)), sequence([...range(8), 90, 91])];
    manager.allocate(a);
    computed(manager, a);
    manager.allocate(b);
    expect(b.blockTable.slice(0, 2)).toEqual(a.blockTable.slice(0, 2));
    expect([b.numCachedTokens, manager.numFreeBlocks]).toEqual([8, 4]);
    manager.deallocate(a);
    manager.deallocate(b);
    expect(manager.numFreeBlocks).toBe(8);
    const c = sequence(range(9));
    manager.allocate(c);
    expect(c.numCachedTokens).toBe(8);
  });

  test('a fully cached prompt leaves one block to compute: its last token must give logits', () => {
    const manager = new BlockManager(8, 4);
    const [a, b] = [sequence(range(8)), sequence(range(8))];
    manager.allocate(a);
    computed(manager, a);
    manager.allocate(b);
    expect(b.numCachedTokens).toBe(4);
    expect(b.blockTable[1]).not.toBe(a.blockTable[1]);
  });

  test('blocks that are allocated but not computed are not shared', () => {
    const manager = new BlockManager(8, 4);
    const [a, b] = [sequence(range(9)), sequence(range(9))];
    manager.allocate(a);
    manager.allocate(b);
    expect(b.numCachedTokens).toBe(0);
  });

  test('a refused allocation changes nothing', () => {
    const manager = new BlockManager(3, 4);
    const a = sequence(range(8));
    manager.allocate(a);
    computed(manager, a);
    const b = sequence([...range(8), ...range(8, 50)]); // shares two blocks, needs two more of one
    expect(manager.allocate(b)).toBe(false);
    expect([b.blockTable, manager.numFreeBlocks]).toEqual([[], 1]);
    manager.checkIntegrity([a, b]);
  });

  test('the block freed longest ago is reused first', () => {
    const manager = new BlockManager(4, 4);
    const [a, b] = [sequence(range(5)), sequence(range(5, 50))];
    for (const seq of [a, b]) {
      manager.allocate(seq);
      computed(manager, seq);
      manager.deallocate(seq);
    }
    const c = sequence(range(5, 100)); // takes two of four: a's
    manager.allocate(c);
    manager.deallocate(c);
    const again = sequence(range(5, 50));
    manager.allocate(again);
    expect(again.numCachedTokens).toBe(4);
  });

  test('checkIntegrity notices a lost reference', () => {
    const manager = new BlockManager(4, 4);
    const a = sequence(range(5));
    manager.allocate(a);
    expect(() => manager.checkIntegrity([])).toThrow(/counts 1 references; block tables hold 0/);
  });
});
