import { describe, expect, test } from 'vitest';
import { BlockManager } from '#nano/engine/block-manager';
import { packPrefill } from '#nano/engine/model-runner';
import { type Batch, planTokens, Scheduler, toBatch } from '#nano/engine/scheduler';
import { Sequence } from '#nano/engine/sequence';
import { type SamplingOptions, SamplingParams } from '#nano/sampling-params';

const BLOCK_SIZE = 4;
const EOS = 2;
/** A token like any other. */
const WORD = 7;

// Random inputs are new in every run; SEED=… repeats one, with the number that the failure shows.
const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 1e6));

/** A generator of whole numbers from 0 to n - 1 (mulberry32). */
function random(seed: number) {
  let state = seed;
  return (n: number): number => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % n;
  };
}

/** What `work` throws. Says so when it throws nothing; lets an exercise that is still to do through. */
function thrownBy(work: () => unknown, what: string): Error {
  let result: unknown;
  try {
    result = work();
  } catch (error) {
    if ((error as Error).name === 'TodoError') throw error;
    return error as Error;
  }
  return expect.fail(`${what} should throw an error, but gave ${String(result)}`);
}

/** The parts of a scheduler that are tasks of their own; everybody else calls `schedule`. */
interface Parts {
  schedulePrefill(): Sequence[];
  makeRoom(seq: Sequence): boolean;
}
const partsOf = (scheduler: Scheduler) => scheduler as unknown as Parts;

interface Sizes {
  numBlocks?: number;
  maxNumSeqs?: number;
  maxNumBatchedTokens?: number;
  maxModelLen?: number;
  blockManager?: BlockManager;
}

/** A scheduler, and named sequences that are put where a task needs them: so each can be tested without the others. */
function setup(sizes: Sizes = {}) {
  const { numBlocks = 16, maxNumSeqs = 4, maxNumBatchedTokens = 32, maxModelLen = 64 } = sizes;
  const blockManager = sizes.blockManager ?? new BlockManager(numBlocks, BLOCK_SIZE);
  const scheduler = new Scheduler(blockManager, { maxNumSeqs, maxNumBatchedTokens, maxModelLen }, new Set([EOS, 3]));
  const names = new Map<Sequence, string>();
  const create = (name: string, prompt: number | number[], params: SamplingOptions = {}): Sequence => {
    const first = 100 * (names.size + 1); // no two prompts begin alike, unless a test wants it
    const tokens = typeof prompt === 'number' ? Array.from({ length: prompt }, (_, i) => first + i) : prompt;
    const seq = new Sequence(tokens, new SamplingParams({ maxTokens: 50, ...params }), BLOCK_SIZE);
    names.set(seq, name);
    return seq;
  };
  return {
    blockManager,
    scheduler,
    parts: partsOf(scheduler),
    namesOf: (seqs: readonly Sequence[]) => seqs.map((seq) => names.get(seq)),
    /** A request in the queue. */
    waits(name: string, prompt: number | number[], params?: SamplingOptions): Sequence {
      const seq = create(name, prompt, params);
      scheduler.waiting.push(seq);
      return seq;
    },
    /** A sequence that runs: it drew `output` tokens, and all but the last of them are in the cache. */
    runs(name: string, prompt: number | number[], output = 1, params?: SamplingOptions): Sequence {
      const seq = create(name, prompt, params);
      expect(blockManager.allocate(seq), `blocks for ${name}`).toBe(true);
      seq.tokenSlot = scheduler.running.length;
      seq.start();
      scheduler.running.push(seq);
      for (let i = 0; i < output; i++) {
        if (i > 0) expect(blockManager.appendSlot(seq), `a slot for ${name}`).toBe(true);
        seq.numCachedTokens = seq.numTokens;
        seq.appendToken(WORD);
      }
      return seq;
    },
    /** Takes blocks until only so many are free. */
    leaveFree(count: number): void {
      const seq = new Sequence(Array((blockManager.numFreeBlocks - count) * BLOCK_SIZE).fill(1), undefined, BLOCK_SIZE);
      expect(blockManager.allocate(seq), `blocks to fill the cache up with`).toBe(true);
    },
  };
}

describe('4.1 Ends', () => {
  /** A sequence after its step drew `token` as its output token number `output`. */
  function drawn(token: number, params: SamplingOptions, { prompt = 4 as number | number[], output = 1 } = {}) {
    const { scheduler, runs } = setup({ maxModelLen: 12 });
    const seq = runs('A', prompt, output - 1, params);
    seq.numCachedTokens = seq.numTokens;
    seq.appendPlaceholder();
    scheduler.postprocess({ isPrefill: false, seqs: [seq], ends: [seq.numCachedTokens], numDrawing: 1 }, [token]);
    return seq;
  }
  const reasonFor = (...args: Parameters<typeof drawn>) => drawn(...args).finishReason;

  test('an end token of the model stops it', () => {
    expect(reasonFor(EOS, {}), 'the reason after an end token').toBe('stop');
    expect(reasonFor(3, {}), 'a model may have several end tokens').toBe('stop');
    expect(reasonFor(WORD, {}), 'after any other token it goes on').toBeUndefined();
    expect(reasonFor(0, {}), 'token 0 is a token like any other').toBeUndefined();
  });

  test('only the last token counts', () => {
    const seq = drawn(WORD, { stopTokenIds: [50] }, { prompt: [50, EOS, 51] });
    expect(seq.finishReason, 'an end or stop token in the prompt means nothing').toBeUndefined();
  });

  test('ignoreEos', () => {
    expect(reasonFor(EOS, { ignoreEos: true }), 'with ignoreEos it goes on').toBeUndefined();
    expect(reasonFor(EOS, { ignoreEos: true, maxTokens: 1 }), 'its length still ends it').toBe('length');
  });

  test('stop tokens of the request', () => {
    expect(reasonFor(9, { stopTokenIds: [8, 9] }), 'stopTokenIds [8, 9], drawn 9').toBe('stop');
    expect(reasonFor(WORD, { stopTokenIds: [8, 9] }), `stopTokenIds [8, 9], drawn ${WORD}`).toBeUndefined();
    expect(reasonFor(9, { stopTokenIds: [9], ignoreEos: true }), 'ignoreEos does not concern stopTokenIds').toBe(
      'stop',
    );
    expect(reasonFor(EOS, { stopTokenIds: [EOS], ignoreEos: true }), 'not even for an end token listed there').toBe(
      'stop',
    );
  });

  test('maxTokens counts the output', () => {
    expect(reasonFor(WORD, { maxTokens: 3 }, { output: 2 }), 'maxTokens 3, output token 2').toBeUndefined();
    expect(reasonFor(WORD, { maxTokens: 3 }, { output: 3 }), 'maxTokens 3, output token 3').toBe('length');
    expect(reasonFor(WORD, { maxTokens: 1 }), 'maxTokens 1, output token 1').toBe('length');
    expect(reasonFor(WORD, { maxTokens: 3 }, { prompt: 8 }), 'maxTokens 3, prompt 8, output token 1').toBeUndefined();
  });

  test('maxModelLen counts prompt and output', () => {
    expect(reasonFor(WORD, {}, { output: 7 }), 'prompt 4 + output 7 of maxModelLen 12').toBeUndefined();
    expect(reasonFor(WORD, {}, { output: 8 }), 'prompt 4 + output 8 of maxModelLen 12').toBe('length');
    expect(reasonFor(WORD, {}, { prompt: 11 }), 'prompt 11 + output 1 of maxModelLen 12').toBe('length');
  });

  test('a stop wins over a length', () => {
    expect(reasonFor(EOS, { maxTokens: 1 }), 'an end token that is also the last allowed').toBe('stop');
    expect(reasonFor(9, { maxTokens: 1, stopTokenIds: [9] }), 'a stop token that is also the last allowed').toBe(
      'stop',
    );
  });

  test('it leaves when it ends', () => {
    const { scheduler, runs, blockManager } = setup();
    const [a, b] = [runs('A', 4, 2), runs('B', 4, 2)];
    for (const seq of [a, b]) seq.appendPlaceholder();
    scheduler.postprocess({ isPrefill: false, seqs: [a, b], ends: [5, 5], numDrawing: 2 }, [EOS, WORD]);
    expect([a.status, b.status], 'A drew an end token and B did not').toEqual(['finished', 'running']);
    expect(scheduler.running, 'B runs on').toEqual([b]);
    expect(blockManager.numFreeBlocks, 'only the two blocks of B are in use').toBe(14);
  });

  test('with run-ahead: a token that is on its way does not count yet', () => {
    const { scheduler, runs } = setup();
    const seq = runs('A', 4, 0, { maxTokens: 2 });
    seq.appendPlaceholder();
    seq.appendPlaceholder(); // the next step is in flight, too
    scheduler.postprocess({ isPrefill: true, seqs: [seq], ends: [4], numDrawing: 1 }, [WORD]);
    expect(seq.finishReason, 'maxTokens 2, one token known and one in flight').toBeUndefined();
    scheduler.postprocess({ isPrefill: false, seqs: [seq], ends: [5], numDrawing: 1 }, [WORD]);
    expect(seq.finishReason, 'maxTokens 2, two tokens known').toBe('length');
    const ended = runs('B', 4, 0);
    for (let i = 0; i < 2; i++) ended.appendPlaceholder();
    scheduler.postprocess({ isPrefill: true, seqs: [ended], ends: [4], numDrawing: 1 }, [EOS]);
    expect(ended.finishReason, 'the last token known is an end token, and one more is in flight').toBe('stop');
  });
});

describe('4.2 Chunks', () => {
  /** A sequence with so many tokens, of which so many are in the cache. */
  function sequence(length: number, cached = 0, planned = 0): Sequence {
    const seq = new Sequence(
      Array.from({ length }, (_, i) => i),
      undefined,
      BLOCK_SIZE,
    );
    seq.numCachedTokens = cached;
    seq.numScheduledTokens = planned;
    return seq;
  }

  test('planTokens: what is left, or what the budget has room for', () => {
    const cases: [length: number, cached: number, budget: number, planned: number][] = [
      [5, 0, 32, 5],
      [8, 0, 8, 8],
      [9, 0, 8, 8],
      [7, 0, 8, 7],
      [19, 0, 8, 8],
      [1, 0, 1, 1],
      [20, 16, 32, 4],
      [20, 16, 4, 4],
      [20, 16, 3, 3],
      [40, 8, 8, 8],
    ];
    for (const [length, cached, budget, planned] of cases) {
      const what = `of ${length} tokens, ${cached} in the cache, budget ${budget}`;
      const seq = sequence(length, cached);
      expect(planTokens(seq, budget), `what planTokens returns: ${what}`).toBe(planned);
      expect(seq.numScheduledTokens, `numScheduledTokens: ${what}`).toBe(planned);
    }
  });

  test('planTokens: output counts like prompt, as after a preemption', () => {
    const seq = sequence(6);
    for (let i = 0; i < 5; i++) seq.appendToken(WORD);
    expect(planTokens(seq, 32), 'a prompt of 6 and 5 tokens of output, nothing in the cache').toBe(11);
  });

  test('planTokens only plans', () => {
    const seq = sequence(9, 4);
    planTokens(seq, 3);
    expect([seq.numCachedTokens, seq.numTokens, seq.status], 'cached tokens, tokens, status').toEqual([
      4,
      9,
      'waiting',
    ]);
  });

  test('a prompt of 19 tokens with a budget of 8 takes three steps', () => {
    const seq = sequence(19);
    const [chunks, drawing]: [number[], number[]] = [[], []];
    for (let step = 0; step < 3; step++) {
      chunks.push(planTokens(seq, 8));
      const batch = toBatch(true, [seq]);
      drawing.push(batch.numDrawing);
      seq.numCachedTokens = batch.ends[0]; // as `launched` will do
      seq.numScheduledTokens = 0;
    }
    expect(chunks, 'tokens in each step').toEqual([8, 8, 3]);
    expect(drawing, 'numDrawing of each step: only the last one draws').toEqual([0, 0, 1]);
    expect(seq.numCachedTokens, 'tokens in the cache at the end').toBe(19);
  });

  test('toBatch: what was given, and the ends', () => {
    const seqs = [sequence(5, 0, 5), sequence(20, 16, 4), sequence(40, 8, 8)];
    const batch = toBatch(true, seqs);
    expect(batch.isPrefill, 'isPrefill').toBe(true);
    expect(batch.seqs, 'the sequences, in order').toEqual(seqs);
    expect(batch.ends, 'tokens in the cache after the step').toEqual([5, 20, 16]);
    expect(toBatch(false, []).isPrefill, 'isPrefill of a decode step').toBe(false);
  });

  test('toBatch: who draws', () => {
    const whole = () => sequence(5, 0, 5);
    const draws = (...seqs: Sequence[]) => toBatch(true, seqs).numDrawing;
    expect(draws(whole(), whole()), 'two whole prompts').toBe(2);
    expect(draws(whole(), whole(), sequence(9, 0, 3)), 'two whole prompts, and 3 tokens of 9').toBe(2);
    expect(draws(whole(), sequence(9, 0, 8)), 'a whole prompt, and 8 tokens of 9').toBe(1);
    expect(draws(sequence(9, 0, 3)), 'only 3 tokens of 9').toBe(0);
    expect(draws(whole(), sequence(9, 3, 6)), 'a whole prompt, and the last 6 tokens of 9').toBe(2);
    expect(draws(sequence(9, 3, 5)), '5 tokens after 3 of 9').toBe(0);
    expect(draws(), 'no sequence at all').toBe(0);
  });

  test('toBatch: in a decode step everybody draws', () => {
    const batch = toBatch(false, [sequence(5, 4, 1), sequence(8, 7, 1), sequence(2, 1, 1)]);
    expect(batch.numDrawing, 'numDrawing of three sequences that decode').toBe(3);
    expect(batch.ends, 'ends of three sequences that decode').toEqual([5, 8, 2]);
  });
});

describe('4.3 Admission', () => {
  const planned = (seqs: readonly Sequence[]) => seqs.map((seq) => seq.numScheduledTokens);

  test('all that fit are taken, in order', () => {
    const { scheduler, parts, waits, namesOf, blockManager } = setup();
    const [a, b, c] = [waits('A', 5), waits('B', 1), waits('C', 8)];
    const scheduled = parts.schedulePrefill();
    expect(namesOf(scheduled), 'what schedulePrefill returns').toEqual(['A', 'B', 'C']);
    expect(planned([a, b, c]), 'tokens planned for A, B and C').toEqual([5, 1, 8]);
    expect(namesOf(scheduler.running), 'running').toEqual(['A', 'B', 'C']);
    expect(namesOf(scheduler.waiting), 'waiting').toEqual([]);
    expect(
      [a, b, c].map((seq) => seq.status),
      'their status',
    ).toEqual(['running', 'running', 'running']);
    expect(
      [a, b, c].map((seq) => seq.blockTable.length),
      'blocks of 4 tokens each has',
    ).toEqual([2, 1, 2]);
    blockManager.checkIntegrity([a, b, c]);
  });

  test('each has a token slot of its own (`admit` gives it)', () => {
    const { parts, waits } = setup();
    const slots = ['A', 'B', 'C'].map((name) => waits(name, 3));
    parts.schedulePrefill();
    const given = slots.map((seq) => seq.tokenSlot);
    expect(Math.min(...given), 'the least token slot of three admitted sequences').toBeGreaterThanOrEqual(0);
    expect(new Set(given).size, 'different token slots of three admitted sequences').toBe(3);
  });

  test('nobody waits: nothing is planned', () => {
    const { parts, runs, namesOf, scheduler } = setup();
    runs('R', 4);
    expect(namesOf(parts.schedulePrefill()), 'what schedulePrefill returns').toEqual([]);
    expect(namesOf(scheduler.running), 'running').toEqual(['R']);
  });

  test('token budget: the prompt that is over it is cut, and stays at the head of the queue', () => {
    const { scheduler, parts, waits, namesOf } = setup({ maxNumBatchedTokens: 15 });
    const [a, b, c] = [waits('A', 10), waits('B', 9), waits('C', 2)];
    expect(namesOf(parts.schedulePrefill()), 'A whole, and as much of B as fits 15 tokens').toEqual(['A', 'B']);
    expect(planned([a, b, c]), 'tokens planned for A, B and C').toEqual([10, 5, 0]);
    expect(namesOf(scheduler.waiting), 'waiting, B first').toEqual(['B', 'C']);
    expect(namesOf(scheduler.running), 'running: B does not, before its prompt is computed').toEqual(['A']);
    expect(b.status, 'the status of B').toBe('waiting');
    expect(b.blockTable.length, 'blocks of B, for its whole prompt').toBe(3);
  });

  test('token budget: used up exactly', () => {
    const { scheduler, parts, waits, namesOf } = setup({ maxNumBatchedTokens: 15 });
    const [, , c] = [waits('A', 10), waits('B', 5), waits('C', 2)];
    expect(namesOf(parts.schedulePrefill()), 'A and B are 15 tokens together').toEqual(['A', 'B']);
    expect(namesOf(scheduler.waiting), 'waiting').toEqual(['C']);
    expect(c.blockTable, 'C has no blocks yet: it could compute nothing with them').toEqual([]);
  });

  test('a cut prompt goes on where it stopped, and is not admitted again', () => {
    const { scheduler, parts, waits, namesOf, blockManager } = setup({ maxNumBatchedTokens: 8 });
    const [a, b] = [waits('A', 19), waits('B', 3)];
    const chunks: (string | undefined)[][] = [];
    let table: number[] = [];
    for (const expected of [8, 8, 3]) {
      chunks.push(namesOf(parts.schedulePrefill()));
      expect(a.numScheduledTokens, `tokens planned after ${a.numCachedTokens}`).toBe(expected);
      if (table.length > 0) expect(a.blockTable, 'its blocks, the same in each step').toEqual(table);
      table = [...a.blockTable];
      blockManager.checkIntegrity([a, b]);
      for (const seq of [a, b]) seq.numCachedTokens += seq.numScheduledTokens;
    }
    expect(chunks, 'the third step has room for B beside the last 3 tokens of A').toEqual([['A'], ['A'], ['A', 'B']]);
    expect(namesOf(scheduler.running), 'running after the third step').toEqual(['A', 'B']);
  });

  test('no more than maxNumSeqs run', () => {
    const { scheduler, parts, waits, runs, namesOf } = setup({ maxNumSeqs: 3 });
    runs('R', 4);
    const [, , c] = [waits('A', 2), waits('B', 2), waits('C', 2)];
    expect(namesOf(parts.schedulePrefill()), 'maxNumSeqs 3, one runs already').toEqual(['A', 'B']);
    expect(namesOf(scheduler.waiting), 'waiting').toEqual(['C']);
    expect(c.blockTable, 'C has no blocks while it waits').toEqual([]);
    expect(namesOf(parts.schedulePrefill()), 'three run: nobody is taken').toEqual([]);
  });

  test('maxNumSeqs 1', () => {
    const { parts, waits, namesOf } = setup({ maxNumSeqs: 1 });
    waits('A', 2);
    waits('B', 2);
    expect(namesOf(parts.schedulePrefill()), 'one is allowed, and one is taken').toEqual(['A']);
  });

  test('blocks: the first that does not fit holds up all behind it', () => {
    const { scheduler, parts, waits, namesOf, blockManager } = setup({ numBlocks: 5 });
    const [a, b, c] = [waits('A', 12), waits('B', 9), waits('C', 1)];
    expect(namesOf(parts.schedulePrefill()), 'of 5 blocks A takes 3, and B wants 3').toEqual(['A']);
    expect(namesOf(scheduler.waiting), 'waiting: C must not overtake, or B might wait for ever').toEqual(['B', 'C']);
    expect(blockManager.numFreeBlocks, 'free blocks').toBe(2);
    blockManager.checkIntegrity([a, b, c]);
  });

  test('blocks: not even the first fits', () => {
    const { scheduler, parts, waits, namesOf, leaveFree } = setup();
    leaveFree(1);
    const a = waits('A', 5);
    expect(namesOf(parts.schedulePrefill()), 'one block is free, and A wants two').toEqual([]);
    expect(namesOf(scheduler.waiting), 'waiting').toEqual(['A']);
    expect([a.status, a.numScheduledTokens], 'status and planned tokens of A').toEqual(['waiting', 0]);
  });

  test('tokens found in the cache cost nothing of the budget', () => {
    const { blockManager, parts, waits, namesOf } = setup({ maxNumBatchedTokens: 10 });
    const common = Array.from({ length: 12 }, (_, i) => 50 + i);
    const before = new Sequence([...common, 1], undefined, BLOCK_SIZE);
    blockManager.allocate(before);
    blockManager.cacheFullBlocks(before, 13);
    blockManager.deallocate(before);
    const [a, b, c] = [waits('A', [...common, 20, 21]), waits('B', [...common, 30, 31, 32]), waits('C', 9)];
    expect(namesOf(parts.schedulePrefill()), 'A and B begin with 12 tokens that are in the cache').toEqual([
      'A',
      'B',
      'C',
    ]);
    expect(planned([a, b, c]), 'tokens planned for A, B and C; the budget is 10').toEqual([2, 3, 5]);
  });

  test('a sequence that was preempted is computed again with its output', () => {
    const { parts, waits, namesOf } = setup();
    const a = waits('A', 6);
    for (let i = 0; i < 5; i++) a.appendToken(WORD);
    expect(namesOf(parts.schedulePrefill()), 'what schedulePrefill returns').toEqual(['A']);
    expect(a.numScheduledTokens, 'tokens planned: a prompt of 6 and 5 of output').toBe(11);
  });
});

describe('4.4 Preemption', () => {
  test('there is room in the last block', () => {
    const { scheduler, parts, runs, namesOf, leaveFree } = setup();
    const [a] = [runs('A', 5), runs('B', 4)];
    leaveFree(0);
    const table = [...a.blockTable];
    expect(parts.makeRoom(a), 'makeRoom for token 6, in blocks of 4').toBe(true);
    expect(a.blockTable, 'the blocks of A').toEqual(table);
    expect([namesOf(scheduler.running), scheduler.numPreemptions], 'running, and preemptions').toEqual([['A', 'B'], 0]);
  });

  test('a block is free', () => {
    const { scheduler, parts, runs, namesOf, leaveFree, blockManager } = setup();
    const [a] = [runs('A', 4), runs('B', 4)];
    leaveFree(1);
    expect(parts.makeRoom(a), 'makeRoom for token 5, in blocks of 4').toBe(true);
    expect(a.blockTable.length, 'blocks of A').toBe(2);
    expect(blockManager.numFreeBlocks, 'free blocks').toBe(0);
    expect([namesOf(scheduler.running), scheduler.numPreemptions], 'running, and preemptions').toEqual([['A', 'B'], 0]);
  });

  test('no block is free: the youngest gives up its own', () => {
    const { scheduler, parts, runs, waits, namesOf, blockManager } = setup({ numBlocks: 6 });
    const [a, b, c] = [runs('A', 8), runs('B', 8), runs('C', 8, 1)];
    waits('W', 3);
    expect(parts.makeRoom(a), 'makeRoom for A').toBe(true);
    expect(namesOf(scheduler.running), 'running: C came last, and goes first').toEqual(['A', 'B']);
    expect(a.blockTable.length, 'blocks of A').toBe(3);
    expect([c.status, c.blockTable, c.numCachedTokens], 'status, blocks and cached tokens of C').toEqual([
      'waiting',
      [],
      0,
    ]);
    expect(c.numTokens, 'C keeps its tokens').toBe(9);
    expect(c.tokenSlot, 'the token slot of C is given back').toBe(-1);
    expect(blockManager.numFreeBlocks, 'free blocks: C had 2, and A took one').toBe(1);
    blockManager.checkIntegrity([a, b, c]);
    expect(scheduler.numPreemptions, 'numPreemptions').toBe(1);
  });

  test('a preempted sequence goes to the head of the queue', () => {
    const { scheduler, parts, runs, waits, namesOf } = setup({ numBlocks: 4 });
    const [a] = [runs('A', 8), runs('B', 8)];
    waits('V', 3);
    waits('W', 3);
    parts.makeRoom(a);
    expect(namesOf(scheduler.waiting), 'waiting: B came before V and W').toEqual(['B', 'V', 'W']);
  });

  test('one is not always enough', () => {
    /** Refuses a few times. */
    class Stingy extends BlockManager {
      refusals = 2;
      override appendSlot(seq: Sequence): boolean {
        return this.refusals-- > 0 ? false : super.appendSlot(seq);
      }
    }
    const { scheduler, parts, runs, waits, namesOf } = setup({ blockManager: new Stingy(16, BLOCK_SIZE) });
    const [a] = [runs('A', 8), runs('B', 8), runs('C', 8), runs('D', 8)];
    waits('W', 3);
    expect(parts.makeRoom(a), 'makeRoom for A, which gets a slot at the third try').toBe(true);
    expect(namesOf(scheduler.running), 'running').toEqual(['A', 'B']);
    expect(namesOf(scheduler.waiting), 'waiting: in the order in which they ran').toEqual(['C', 'D', 'W']);
    expect(scheduler.numPreemptions, 'numPreemptions').toBe(2);
  });

  test('the youngest has nobody younger to take from', () => {
    const { scheduler, parts, runs, namesOf, leaveFree, blockManager } = setup();
    const [a, b] = [runs('A', 8), runs('B', 8)];
    leaveFree(0);
    expect(parts.makeRoom(b), 'makeRoom for B').toBe(false);
    expect(namesOf(scheduler.running), 'running').toEqual(['A']);
    expect(namesOf(scheduler.waiting), 'waiting').toEqual(['B']);
    expect([b.status, b.blockTable], 'status and blocks of B').toEqual(['waiting', []]);
    expect(a.blockTable.length, 'A keeps its blocks').toBe(2);
    expect(blockManager.numFreeBlocks, 'free blocks').toBe(2);
    expect(scheduler.numPreemptions, 'numPreemptions').toBe(1);
  });

  test('one that runs alone and finds no block is an error: waiting would not help', () => {
    const { parts, runs, leaveFree } = setup();
    const a = runs('A', 8);
    leaveFree(0);
    const error = thrownBy(() => parts.makeRoom(a), 'makeRoom for the only sequence, with no block free');
    expect(error.message, 'the message names the sequence').toContain(String(a.seqId));
  });
});

describe('4.5 Steps', () => {
  test('nothing to do: a batch without sequences', () => {
    const batch = setup().scheduler.schedule();
    expect([batch.isPrefill, batch.seqs, batch.ends, batch.numDrawing], 'the batch').toEqual([false, [], [], 0]);
  });

  test('prefill goes first, and alone', () => {
    const { scheduler, runs, waits, namesOf } = setup();
    const r = runs('R', 5);
    waits('A', 3);
    const batch = scheduler.schedule();
    expect([batch.isPrefill, namesOf(batch.seqs)], 'R runs, A waits').toEqual([true, ['A']]);
    expect(r.numScheduledTokens, 'nothing is planned for R in a prefill step').toBe(0);
    expect([batch.ends, batch.numDrawing], 'ends and numDrawing').toEqual([[3], 1]);
  });

  test('then all that run decode together, one token each', () => {
    const { scheduler, runs, namesOf } = setup();
    const seqs = [runs('A', 5), runs('B', 4), runs('C', 7, 3)];
    const batch = scheduler.schedule();
    expect([batch.isPrefill, namesOf(batch.seqs)], 'the batch').toEqual([false, ['A', 'B', 'C']]);
    expect(
      seqs.map((seq) => seq.numScheduledTokens),
      'planned tokens',
    ).toEqual([1, 1, 1]);
    expect([batch.ends, batch.numDrawing], 'ends and numDrawing').toEqual([[6, 5, 10], 3]);
    expect(
      seqs.map((seq) => seq.blockTable.length),
      'blocks: each last token has a slot',
    ).toEqual([2, 2, 3]);
  });

  test('decode goes on while the first in the queue has no blocks', () => {
    const { scheduler, runs, waits, namesOf, leaveFree } = setup();
    runs('R', 5);
    leaveFree(1);
    waits('A', 9);
    const batch = scheduler.schedule();
    expect([batch.isPrefill, namesOf(batch.seqs)], 'R runs, and A waits for blocks').toEqual([false, ['R']]);
  });

  test('a preempted sequence is not in the batch, and is not prefilled in the same step', () => {
    const { scheduler, runs, namesOf, blockManager } = setup({ numBlocks: 6 });
    const seqs = [runs('A', 8), runs('B', 8), runs('C', 8)];
    const batch = scheduler.schedule();
    expect([batch.isPrefill, namesOf(batch.seqs)], 'A and B take the two blocks of C').toEqual([false, ['A', 'B']]);
    expect(namesOf(scheduler.waiting), 'waiting').toEqual(['C']);
    expect(seqs[2].numScheduledTokens, 'planned tokens of C').toBe(0);
    blockManager.checkIntegrity(seqs);
  });

  test('one that had to preempt itself is not in the batch', () => {
    const { scheduler, runs, namesOf, leaveFree } = setup();
    runs('A', 5);
    const b = runs('B', 8);
    leaveFree(0);
    const batch = scheduler.schedule();
    expect(namesOf(batch.seqs), 'A has a slot left, B wants a block and is the youngest').toEqual(['A']);
    expect([b.status, b.numScheduledTokens], 'status and planned tokens of B').toEqual(['waiting', 0]);
  });

  test('with run-ahead: one that only waits to learn its last token holds nobody up', () => {
    const { scheduler, runs, namesOf } = setup();
    const a = runs('A', 5, 1, { maxTokens: 2 });
    runs('B', 5, 1);
    a.numCachedTokens = a.numTokens;
    a.appendPlaceholder();
    expect(namesOf(scheduler.schedule().seqs), 'A has its two tokens, the second on its way').toEqual(['B']);
    expect(namesOf(scheduler.running), 'running').toEqual(['A', 'B']);
  });

  // All of the scheduler together, with a make-believe model: every workload is random, every step is checked.
  test('whatever the limits, each request gets what it would get alone', () => {
    let preemptions = 0;
    for (let run = 0; run < 40; run++)
      preemptions += runWorkload(SEED + run, `workload ${run} (SEED=${SEED} repeats it)`);
    expect(preemptions, `preemptions in 40 workloads (SEED=${SEED} repeats them): there must be some`).toBeGreaterThan(
      0,
    );
  });
});

/** A number that depends on every token of a prefix: what a key in the cache depends on, too. */
function digest(tokens: readonly number[]): number {
  return tokens.reduce((sum, token) => (Math.imul(sum, 31) + token + 1) | 0, 17);
}

/** A make-believe model: any tokens determine the next one, which is sometimes an end token. */
const nextToken = (tokens: readonly number[]): number =>
  Math.abs(digest(tokens)) % 23 === 0 ? EOS : 10 + (Math.abs(digest(tokens)) % 50);

/** What a request gets that has the model to itself. */
function alone(prompt: readonly number[], maxTokens: number, maxModelLen: number): number[] {
  const tokens = [...prompt];
  do tokens.push(nextToken(tokens));
  while (tokens.at(-1) !== EOS && tokens.length - prompt.length < maxTokens && tokens.length < maxModelLen);
  return tokens.slice(prompt.length);
}

/**
 * Serves random requests under random limits to the end. Instead of keys and values, the cache holds for each slot the digest
 * of its token and all before it; every step must find the right ones.
 * @returns how often a sequence was preempted.
 */
function runWorkload(seed: number, what: string): number {
  const pick = random(seed);
  const maxModelLen = 24;
  const maxNumSeqs = 1 + pick(5);
  const limits = { maxNumSeqs, maxNumBatchedTokens: maxNumSeqs + pick(20), maxModelLen };
  const blockManager = new BlockManager(6 + pick(8), BLOCK_SIZE, pick(2) === 0);
  const scheduler = new Scheduler(blockManager, limits, new Set([EOS]));
  const cache = new Array<number>(blockManager.numBlocks * BLOCK_SIZE);
  const seqs = Array.from({ length: 8 }, () => {
    const prompt = Array.from({ length: 1 + pick(18) }, (_, i) => (pick(4) > 0 ? 20 + (i % 3) : 10 + pick(50)));
    return new Sequence(prompt, new SamplingParams({ maxTokens: 1 + pick(12) }), BLOCK_SIZE);
  });
  const toArrive = [...seqs];
  for (let step = 0; toArrive.length > 0 || !scheduler.isFinished; step++) {
    while (toArrive.length > 0 && pick(2) === 0) scheduler.add(toArrive.shift() as Sequence);
    const batch = scheduler.schedule();
    if (batch.seqs.length === 0) expect(scheduler.isFinished, `${what}: an empty step, and somebody waits`).toBe(true);
    const drawn = compute(batch, cache, `${what}, step ${step}`);
    const tokens = batch.seqs.reduce((sum, seq) => sum + seq.numScheduledTokens, 0);
    expect(tokens, `${what}: the most tokens step ${step} may have`).toBeLessThanOrEqual(limits.maxNumBatchedTokens);
    expect(scheduler.running.length, `${what}: the most sequences that may run`).toBeLessThanOrEqual(maxNumSeqs);
    scheduler.launched(batch);
    scheduler.postprocess(batch, drawn);
    blockManager.checkIntegrity(seqs);
    if (step === 1000) expect.fail(`${what}: not all are done after ${step} steps. Does every step compute something?`);
  }
  for (const seq of seqs) {
    const prompt = seq.tokenIds.slice(0, seq.numPromptTokens);
    const expected = alone(prompt, seq.samplingParams.maxTokens, maxModelLen);
    expect(seq.outputTokenIds, `${what}: the output of request ${seqs.indexOf(seq)}`).toEqual(expected);
  }
  expect(blockManager.numFreeBlocks, `${what}: free blocks at the end`).toBe(blockManager.numBlocks);
  return scheduler.numPreemptions;
}

/** What the model runner does with a batch: writes the planned tokens into the cache, and draws. */
function compute(batch: Batch, cache: number[], what: string): number[] {
  const slotOf = (seq: Sequence, i: number) =>
    seq.blockTable[Math.floor(i / BLOCK_SIZE)] * BLOCK_SIZE + (i % BLOCK_SIZE);
  for (const seq of batch.seqs) {
    const end = seq.numCachedTokens + seq.numScheduledTokens;
    for (let i = seq.numCachedTokens; i < end; i++) cache[slotOf(seq, i)] = digest(seq.tokenIds.slice(0, i + 1));
  }
  return batch.seqs.map((seq, b) => {
    for (let i = 0; i < batch.ends[b]; i++) {
      const found = cache[slotOf(seq, i)];
      expect(found, `${what}: the digest in the cache, of sequence ${seq.seqId} up to its token ${i}`).toBe(
        digest(seq.tokenIds.slice(0, i + 1)),
      );
    }
    return nextToken(seq.tokenIds);
  });
}

describe('4.6 Packed inputs', () => {
  /** A sequence with tokens `first`, `first` + 1, …, whose next tokens are planned. */
  function sequence(length: number, cached: number, planned: number, blockTable: number[], first = 100): Sequence {
    const tokens = Array.from({ length }, (_, i) => first + i);
    const seq = new Sequence(tokens, undefined, BLOCK_SIZE);
    seq.numCachedTokens = cached;
    seq.numScheduledTokens = planned;
    seq.blockTable = blockTable;
    return seq;
  }
  const ints = (...values: number[]) => Int32Array.from(values);

  test('one prompt', () => {
    const packed = packPrefill([sequence(6, 0, 6, [5, 2])], BLOCK_SIZE);
    for (const name of ['inputIds', 'positions', 'slotMapping', 'cuSeqlensQ', 'cuSeqlensK', 'lastRows'] as const)
      expect(packed[name]?.constructor.name, `what ${name} is`).toBe('Int32Array');
    expect(packed.inputIds, 'the tokens').toEqual(ints(100, 101, 102, 103, 104, 105));
    expect(packed.positions, 'positions').toEqual(ints(0, 1, 2, 3, 4, 5));
    expect(packed.slotMapping, 'slots in blocks 5 and 2, of 4 tokens').toEqual(ints(20, 21, 22, 23, 8, 9));
    expect([packed.cuSeqlensQ, packed.cuSeqlensK], 'cuSeqlensQ and cuSeqlensK').toEqual([ints(0, 6), ints(0, 6)]);
    expect([packed.maxSeqlenQ, packed.maxSeqlenK], 'maxSeqlenQ and maxSeqlenK').toEqual([6, 6]);
    expect(packed.lastRows, 'the row of the last token').toEqual(ints(5));
  });

  test('three prompts, one after the other', () => {
    const seqs = [sequence(3, 0, 3, [1]), sequence(1, 0, 1, [0], 200), sequence(2, 0, 2, [7], 300)];
    const packed = packPrefill(seqs, BLOCK_SIZE);
    expect(packed.inputIds, 'the tokens').toEqual(ints(100, 101, 102, 200, 300, 301));
    expect(packed.positions, 'positions begin anew for each sequence').toEqual(ints(0, 1, 2, 0, 0, 1));
    expect(packed.slotMapping, 'slots').toEqual(ints(4, 5, 6, 0, 28, 29));
    expect(packed.cuSeqlensQ, 'cuSeqlensQ').toEqual(ints(0, 3, 4, 6));
    expect([packed.maxSeqlenQ, packed.maxSeqlenK], 'maxSeqlenQ and maxSeqlenK').toEqual([3, 3]);
    expect(packed.lastRows, 'the row of each last token').toEqual(ints(2, 3, 5));
  });

  test('a chunk goes on where the one before it stopped', () => {
    const packed = packPrefill([sequence(19, 8, 8, [4, 0, 3, 9, 1])], BLOCK_SIZE);
    expect(packed.inputIds, 'tokens 8 to 15').toEqual(ints(108, 109, 110, 111, 112, 113, 114, 115));
    expect(packed.positions, 'their positions in the whole sequence').toEqual(ints(8, 9, 10, 11, 12, 13, 14, 15));
    expect(packed.slotMapping, 'slots in its third and fourth blocks, 3 and 9').toEqual(
      ints(12, 13, 14, 15, 36, 37, 38, 39),
    );
    expect(packed.cuSeqlensQ, 'cuSeqlensQ: 8 new tokens').toEqual(ints(0, 8));
    expect(packed.cuSeqlensK, 'cuSeqlensK: they look back at 16 keys').toEqual(ints(0, 16));
    expect([packed.maxSeqlenQ, packed.maxSeqlenK], 'maxSeqlenQ and maxSeqlenK').toEqual([8, 16]);
    expect(packed.lastRows, 'the row of the last token').toEqual(ints(7));
  });

  test('a prompt whose beginning is in the cache, beside one that is new', () => {
    const seqs = [sequence(3, 0, 3, [6]), sequence(10, 8, 2, [2, 5, 1], 200)];
    const packed = packPrefill(seqs, BLOCK_SIZE);
    expect(packed.inputIds, 'the tokens').toEqual(ints(100, 101, 102, 208, 209));
    expect(packed.positions, 'positions').toEqual(ints(0, 1, 2, 8, 9));
    expect(packed.slotMapping, 'slots').toEqual(ints(24, 25, 26, 4, 5));
    expect(packed.cuSeqlensQ, 'cuSeqlensQ: 3 and 2 new tokens').toEqual(ints(0, 3, 5));
    expect(packed.cuSeqlensK, 'cuSeqlensK: 3 and 10 keys').toEqual(ints(0, 3, 13));
    expect([packed.maxSeqlenQ, packed.maxSeqlenK], 'maxSeqlenQ and maxSeqlenK').toEqual([3, 10]);
    expect(packed.lastRows, 'the row of each last token').toEqual(ints(2, 4));
  });

  test('no sequences', () => {
    const packed = packPrefill([], BLOCK_SIZE);
    expect([packed.inputIds, packed.positions, packed.slotMapping], 'no tokens').toEqual([ints(), ints(), ints()]);
    expect([packed.cuSeqlensQ, packed.cuSeqlensK], 'cuSeqlensQ and cuSeqlensK').toEqual([ints(0), ints(0)]);
    expect([packed.maxSeqlenQ, packed.maxSeqlenK, packed.lastRows], 'the rest').toEqual([0, 0, ints()]);
  });

  test('it changes no sequence', () => {
    const seq = sequence(10, 4, 3, [2, 5, 1]);
    packPrefill([seq], BLOCK_SIZE);
    expect([seq.numCachedTokens, seq.numScheduledTokens, seq.blockTable], 'cached, planned, blocks').toEqual([
      4,
      3,
      [2, 5, 1],
    ]);
    expect(seq.numTokens, 'tokens').toBe(10);
  });

  test('any batch: row by row, what the model must be told', () => {
    const pick = random(SEED);
    for (let run = 0; run < 50; run++) {
      const blockSize = 1 + pick(6);
      let nextBlock = 0;
      const seqs = Array.from({ length: 1 + pick(5) }, () => {
        const cached = pick(3) === 0 ? 0 : pick(20);
        const planned = 1 + pick(12);
        const length = cached + planned + (pick(2) === 0 ? 0 : pick(8));
        const blocks = Array.from({ length: Math.ceil(length / blockSize) }, () => nextBlock++);
        return sequence(length, cached, planned, blocks.reverse(), 1000 * pick(50));
      });
      const packed = packPrefill(seqs, blockSize);
      const what = `batch ${run} (SEED=${SEED} repeats it)`;
      let row = 0;
      let keys = 0;
      seqs.forEach((seq, b) => {
        expect(packed.cuSeqlensQ[b], `${what}: where the rows of sequence ${b} begin`).toBe(row);
        expect(packed.cuSeqlensK[b], `${what}: where the keys of sequence ${b} begin`).toBe(keys);
        for (let n = 0; n < seq.numScheduledTokens; n++, row++) {
          const position = packed.positions[row];
          expect(position, `${what}: the position in row ${row}`).toBe(seq.numCachedTokens + n);
          expect(packed.inputIds[row], `${what}: the token in row ${row}`).toBe(seq.tokenIds[position]);
          const slot = packed.slotMapping[row];
          expect(slot % blockSize, `${what}: the slot in row ${row}, in its block`).toBe(position % blockSize);
          const block = seq.blockTable.indexOf(Math.floor(slot / blockSize));
          expect(block, `${what}: which block of its sequence row ${row} goes to`).toBe(
            Math.floor(position / blockSize),
          );
        }
        keys += seq.numCachedTokens + seq.numScheduledTokens;
        expect(packed.lastRows[b], `${what}: the last row of sequence ${b}`).toBe(row - 1);
      });
      expect([...packed.cuSeqlensQ].at(-1), `${what}: rows altogether`).toBe(row);
      expect([...packed.cuSeqlensK].at(-1), `${what}: keys altogether`).toBe(keys);
      expect(packed.inputIds.length, `${what}: tokens altogether`).toBe(row);
    }
  });
});
