// Scheduling one step ahead of the results: each rule by name, on a device that ends its steps when the test says.
// That outputs are the same as without it, whatever happens, is what scheduling.property.test.ts shows.
import { setImmediate as turn } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { type EngineOptions, LLMEngine } from '#nano/engine/llm-engine';
import type { StepResult } from '#nano/engine/model-runner';
import type { RequestOutput, RequestUpdate } from '#nano/engine/outputs';
import type { Batch } from '#nano/engine/scheduler';
import { PLACEHOLDER, type Sequence } from '#nano/engine/sequence';
import { sentencePieceTokenizer } from './helpers/tokenizers';

const EOS = 0;
const OPTIONS: EngineOptions = {
  maxModelLen: 32,
  maxNumSeqs: 4,
  maxNumBatchedTokens: 64,
  kvCacheBlockSize: 4,
  numKvCacheBlocks: 16,
  enablePrefixCaching: true,
  vocabSize: 300,
  eosTokenIds: [EOS],
  runAhead: true,
};

/** What a step looked like when it was launched. */
interface Launched {
  readonly isPrefill: boolean;
  /** Each sequence's tokens then, unknown ones included. */
  readonly tokens: number[][];
  /** The requests in it, by the first token of their prompts. */
  readonly requests: number[];
}

/**
 * Answers a request by the script under its prompt's first token, and then with 50s. Steps end by themselves, soon
 * after one another; or with `manual` when {@link end} is called.
 */
class MockDevice {
  readonly launches: Launched[] = [];
  failLaunch: (launched: Launched) => boolean = () => false;
  failRead: (launched: Launched) => boolean = () => false;
  manual = false;
  private readonly ends: (() => void)[] = [];

  constructor(private readonly scripts: Record<number, number[]> = {}) {}

  launch({ isPrefill, seqs, numDrawing }: Batch): Promise<StepResult> {
    const tokens = seqs.map((seq) => [...seq.tokenIds]);
    const launched = { isPrefill, tokens, requests: tokens.map(([first]) => first) };
    if (this.failLaunch(launched)) throw new Error('the launch failed');
    this.launches.push(launched);
    const draw = (seq: Sequence) => this.scripts[seq.tokenIds[0]]?.[seq.numOutputTokens] ?? 50;
    const tokenIds = seqs.slice(0, numDrawing).map(draw);
    return new Promise((resolve, reject) => {
      const end = () => {
        if (this.failRead(launched)) reject(new Error('the read failed'));
        else resolve({ tokenIds, logprobs: new Map() });
      };
      if (this.manual) this.ends.push(end);
      else setImmediate(end);
    });
  }

  /** Ends a step still running: the oldest, or the one `which` after it. */
  end(which = 0): void {
    this.ends.splice(which, 1)[0]?.();
  }

  close(): void {}
}

function setup(scripts?: Record<number, number[]>, options: Partial<EngineOptions> = {}) {
  const device = new MockDevice(scripts);
  return { device, engine: new LLMEngine(device, { ...OPTIONS, ...options }) };
}

async function runAll(engine: LLMEngine): Promise<RequestUpdate[]> {
  const updates: RequestUpdate[] = [];
  while (engine.hasUnfinishedRequests) {
    updates.push(...(await engine.step()));
    engine.checkIntegrity();
  }
  expect(engine.numFreeBlocks).toBe(engine.options.numKvCacheBlocks);
  return updates;
}

/** Outputs and errors by request id. */
function results(updates: readonly RequestUpdate[]): Record<number, RequestOutput | string> {
  const ended = updates.filter(({ output, error }) => output || error);
  return Object.fromEntries(ended.map(({ requestId, output, error }) => [requestId, output ?? error?.message ?? '']));
}

describe('run-ahead', () => {
  test('a step is launched while the one before it runs, with a placeholder for the token to come', async () => {
    const { device, engine } = setup({ 1: [11, 12, 13] });
    device.manual = true;
    engine.addRequest([1, 2, 3], { maxTokens: 4 });
    const stepping = engine.step();
    expect(device.launches.map(({ isPrefill, tokens }) => [isPrefill, ...tokens])).toEqual([
      [true, [1, 2, 3]],
      [false, [1, 2, 3, PLACEHOLDER]],
    ]);
    device.end();
    expect((await stepping).map(({ tokenIds }) => tokenIds)).toEqual([[11]]);
    void engine.step();
    expect(device.launches[2].tokens).toEqual([[1, 2, 3, 11, PLACEHOLDER]]);
  });

  test('never more than one step ahead', async () => {
    const { device, engine } = setup();
    device.manual = true;
    engine.addRequest([1], { maxTokens: 10 });
    for (let steps = 1; steps < 5; steps++) {
      const stepping = engine.step();
      expect(device.launches).toHaveLength(steps + 1);
      device.end();
      await stepping;
    }
  });

  test('without it, a step is launched when all is known', async () => {
    const { device, engine } = setup({}, { runAhead: false });
    engine.addRequest([1, 2], { maxTokens: 3 });
    await runAll(engine);
    expect(device.launches.flatMap(({ tokens }) => tokens)).toEqual([
      [1, 2],
      [1, 2, 50],
      [1, 2, 50, 50],
    ]);
    expect(engine.counters.discardedTokens).toBe(0);
  });

  test.each([
    ['the end of sequence', { 1: [11, EOS, 99] }, {}, [11, EOS]],
    ['a stop token', { 1: [11, 12, 99] }, { stopTokenIds: [12] }, [11, 12]],
  ])('%s costs one discarded token', async (_, scripts, params, expected) => {
    const { device, engine } = setup(scripts);
    const id = engine.addRequest([1, 2, 3], { maxTokens: 20, ...params });
    expect(results(await runAll(engine))[id]).toMatchObject({ tokenIds: expected, finishReason: 'stop' });
    expect(device.launches).toHaveLength(3);
    expect(engine.counters).toMatchObject({ discardedTokens: 1, generatedTokens: 2, decodeTokens: 1, steps: 3 });
  });

  test('so does a stop string, which may span tokens', async () => {
    const tokenizer = sentencePieceTokenizer();
    const [a, b, c] = ['a', 'b', 'c'].map(
      (text) => tokenizer.encode(text, { addSpecialTokens: false }).at(-1) as number,
    );
    const { engine } = setup({ 1: [c, a, b, c, c] }, { tokenizer, eosTokenIds: [2] });
    const id = engine.addRequest([1, 2], { maxTokens: 20, stop: ['ab'] });
    const { text, tokenIds, finishReason } = results(await runAll(engine))[id] as RequestOutput;
    expect([text, tokenIds, finishReason]).toEqual(['c', [c, a, b], 'stop']);
    expect(engine.counters.discardedTokens).toBe(1);
  });

  test.each([
    ['maxTokens', { maxTokens: 3 }, 3],
    ['maxModelLen', { maxTokens: 100 }, 29],
  ])('a length is foreseen, and nothing computed in vain: %s', async (_, params, length) => {
    const { device, engine } = setup();
    const id = engine.addRequest([1, 2, 3], params);
    const output = results(await runAll(engine))[id] as RequestOutput;
    expect([output.tokenIds.length, output.finishReason]).toEqual([length, 'length']);
    expect(device.launches).toHaveLength(length);
    expect(engine.counters.discardedTokens).toBe(0);
  });

  test('one that waits for its last token holds nobody up', async () => {
    const { device, engine } = setup();
    engine.addRequest([1], { maxTokens: 2 });
    engine.addRequest([2], { maxTokens: 4 });
    await runAll(engine);
    expect(device.launches.map(({ requests }) => requests)).toEqual([[1, 2], [1, 2], [2], [2]]);
  });

  test('a preempted sequence learns the token in flight before it is prefilled again', async () => {
    // Two prompts of two blocks, and five blocks: the first decode step gives the fifth to the older and preempts the
    // younger, whose first token is still in flight.
    const scripts = { 1: [11, EOS], 2: [21, 22, EOS] };
    const { device, engine } = setup(scripts, { numKvCacheBlocks: 5, maxModelLen: 20, enablePrefixCaching: false });
    const ids = [1, 2].map((first) => engine.addRequest([first, 3, 4, 5, 6, 7, 8, 9], { maxTokens: 5 }));
    const outputs = results(await runAll(engine));
    expect(engine.numPreemptions).toBe(1);
    expect(device.launches[1]).toMatchObject({ isPrefill: false, requests: [1] });
    const again = device.launches.filter(({ isPrefill }) => isPrefill)[1];
    expect(again.tokens).toEqual([[2, 3, 4, 5, 6, 7, 8, 9, 21]]);
    expect(ids.map((id) => (outputs[id] as RequestOutput).tokenIds)).toEqual([
      [11, EOS],
      [21, 22, EOS],
    ]);
  });

  test('a preempted sequence may turn out to be finished', async () => {
    const scripts = { 1: [11, 12, EOS], 2: [EOS] };
    const { device, engine } = setup(scripts, { numKvCacheBlocks: 5, maxModelLen: 20 });
    engine.addRequest([1, 3, 4, 5, 6, 7, 8, 9], { maxTokens: 5 });
    const id = engine.addRequest([2, 3, 4, 5, 6, 7, 8, 9], { maxTokens: 5 });
    expect(results(await runAll(engine))[id]).toMatchObject({ tokenIds: [EOS], finishReason: 'stop' });
    expect(engine.numPreemptions).toBe(1);
    expect(device.launches.filter(({ isPrefill }) => isPrefill)).toHaveLength(1);
  });

  test('a block is found by its contents only when all its tokens are known', async () => {
    const { engine } = setup({ 1: [11, 12, 13, 14, 15, 16] });
    engine.addRequest([1, 2, 3], { maxTokens: 6 }); // its output fills the first block and more
    await engine.step();
    engine.checkIntegrity(); // finds blocks that are known by a placeholder
    await runAll(engine);
    const again = engine.addRequest([1, 2, 3, 11, 12, 13, 14, 15, 77], { maxTokens: 1 });
    expect(results(await runAll(engine))[again]).toMatchObject({ numCachedTokens: 8 });
  });

  test('aborted while two steps are in flight: the output has known tokens only, and others go on', async () => {
    const { device, engine } = setup({ 1: [11, 12, 13], 2: [21, 22, 23, EOS] });
    const [gone, stays] = [1, 2].map((first) => engine.addRequest([first, 3, 4], { maxTokens: 9 }));
    await engine.step(); // 11 and 21 are known, and the step after them is in flight
    device.manual = true;
    const stepping = engine.step(); // so is the next
    engine.abort(gone);
    device.manual = false;
    const updates = await stepping;
    device.end();
    const outputs = results([...updates, ...(await runAll(engine))]);
    expect(outputs[gone]).toMatchObject({ tokenIds: [11], finishReason: 'abort' });
    expect(outputs[stays]).toMatchObject({ tokenIds: [21, 22, 23, EOS], finishReason: 'stop' });
    expect(engine.counters.discardedTokens).toBe(3); // two of the aborted one, one of the other
  });

  test('the engine is not idle while a step is in flight', async () => {
    const { engine } = setup();
    const id = engine.addRequest([1, 2], { maxTokens: 9 });
    await engine.step();
    engine.abort(id);
    const stepping = engine.step();
    expect(engine.hasUnfinishedRequests).toBe(true); // nobody waits for its tokens, but the device is at work
    await stepping;
    expect(engine.hasUnfinishedRequests).toBe(false);
  });

  test('a failed launch fails its batch only', async () => {
    const { device, engine } = setup({ 1: [11, 12, 13, EOS] });
    device.failLaunch = ({ requests }) => requests.includes(2);
    const good = engine.addRequest([1, 3], { maxTokens: 9 });
    const updates = [...(await engine.step())];
    const bad = engine.addRequest([2, 3], { maxTokens: 9 });
    const outputs = results([...updates, ...(await runAll(engine))]);
    expect(outputs[bad]).toBe('the launch failed');
    expect(outputs[good]).toMatchObject({ tokenIds: [11, 12, 13, EOS], finishReason: 'stop' });
  });

  test('a failed launch that preempted a sequence does not make it lose the token in flight', async () => {
    const scripts = { 2: [21, 22, EOS] };
    const { device, engine } = setup(scripts, { numKvCacheBlocks: 5, maxModelLen: 20 });
    device.failLaunch = ({ isPrefill, requests }) => !isPrefill && requests.includes(1);
    const [bad, good] = [1, 2].map((first) => engine.addRequest([first, 3, 4, 5, 6, 7, 8, 9], { maxTokens: 5 }));
    const outputs = results(await runAll(engine));
    expect(engine.numPreemptions).toBe(1);
    expect(outputs[bad]).toBe('the launch failed');
    expect(outputs[good]).toMatchObject({ tokenIds: [21, 22, EOS], finishReason: 'stop' });
  });

  test('a failed read fails its batch; a step on top of it goes on without these requests', async () => {
    const { device, engine } = setup({ 2: [21, EOS] });
    const bad = engine.addRequest([1, 3], { maxTokens: 9 });
    await engine.step(); // the first decode step of `bad` is in flight
    device.failRead = ({ isPrefill, requests }) => !isPrefill && requests.includes(1);
    const good = engine.addRequest([2, 3], { maxTokens: 9 }); // its prefill goes on top
    const outputs = results(await runAll(engine));
    expect(outputs[bad]).toBe('the read failed');
    expect(outputs[good]).toMatchObject({ tokenIds: [21, EOS], finishReason: 'stop' });
  });

  test('what a failed step computed is never found', async () => {
    const { device, engine } = setup();
    device.failRead = () => true;
    const prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    const bad = engine.addRequest(prompt, { maxTokens: 9 });
    expect(results(await runAll(engine))[bad]).toBe('the read failed');
    device.failRead = () => false;
    const again = engine.addRequest(prompt, { maxTokens: 1 });
    expect(results(await runAll(engine))[again]).toMatchObject({ numCachedTokens: 0 });
  });

  test('a step that fails before the one below it has ended is reported in its turn', async () => {
    const { device, engine } = setup({ 1: [11] });
    device.manual = true;
    const id = engine.addRequest([1, 2], { maxTokens: 9 });
    const stepping = engine.step();
    device.failRead = ({ isPrefill }) => !isPrefill;
    device.end(1);
    await turn(); // where an unhandled rejection would end the process
    device.end();
    expect((await stepping).map(({ tokenIds }) => tokenIds)).toEqual([[11]]);
    device.manual = false;
    expect(results(await runAll(engine))[id]).toBe('the read failed');
  });

  test('a long prompt is prefilled ahead, chunk by chunk', async () => {
    const { device, engine } = setup({ 1: [11, EOS] }, { maxNumBatchedTokens: 8 });
    const prompt = [1, ...Array.from({ length: 18 }, (_, i) => 100 + i)];
    const id = engine.addRequest(prompt, { maxTokens: 9 });
    const outputs = results(await runAll(engine));
    expect(outputs[id]).toMatchObject({ tokenIds: [11, EOS], finishReason: 'stop' });
    expect(device.launches.map(({ isPrefill }) => isPrefill)).toEqual([true, true, true, false, false]);
    expect(engine.counters).toMatchObject({ prefillTokens: 19, decodeTokens: 1, discardedTokens: 1 });
  });

  test('overlapping steps are not counted twice', async () => {
    const { device, engine } = setup();
    device.manual = true;
    engine.addRequest([1, 2], { maxTokens: 4 });
    const started = performance.now();
    while (engine.hasUnfinishedRequests) {
      const stepping = engine.step();
      setTimeout(() => device.end(), 20);
      await stepping;
    }
    const { prefillSeconds, decodeSeconds } = engine.counters;
    expect(prefillSeconds + decodeSeconds).toBeLessThanOrEqual((performance.now() - started) / 1000);
    expect(prefillSeconds + decodeSeconds).toBeGreaterThan(0.06);
  });
});
