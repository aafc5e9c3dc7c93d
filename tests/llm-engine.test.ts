import { describe, expect, test, vi } from 'vitest';
import { type EngineOptions, LLMEngine } from '#nano/engine/llm-engine';
import type { StepResult } from '#nano/engine/model-runner';
import type { RequestUpdate } from '#nano/engine/outputs';
import type { Batch } from '#nano/engine/scheduler';
import { SamplingParams } from '#nano/sampling-params';
import { sentencePieceTokenizer } from './helpers/tokenizers';

const OPTIONS: EngineOptions = {
  maxModelLen: 32,
  maxNumSeqs: 4,
  maxNumBatchedTokens: 64,
  kvCacheBlockSize: 4,
  numKvCacheBlocks: 16,
  enablePrefixCaching: true,
  vocabSize: 100,
  eosTokenIds: [0],
  runAhead: false,
};

/** A model that answers the sum of a sequence's tokens, and fails when told to. */
function mockRunner(failWhen: (batch: Batch) => boolean = () => false) {
  return {
    async launch(batch: Batch): Promise<StepResult> {
      if (failWhen(batch)) throw new Error('the device is on fire');
      const next = batch.seqs.map((seq) => 1 + (seq.tokenIds.reduce((a, b) => a + b, 0) % 99));
      return { tokenIds: Int32Array.from(next), logprobs: new Map() };
    },
    close() {},
  };
}

async function runAll(engine: LLMEngine): Promise<RequestUpdate[]> {
  const updates: RequestUpdate[] = [];
  while (engine.hasUnfinishedRequests) {
    updates.push(...(await engine.step()));
    engine.checkIntegrity();
  }
  return updates;
}

describe('engine', () => {
  test('a failed step ends the requests in it with the error; the engine goes on and no block leaks', async () => {
    let broken = true;
    const engine = new LLMEngine(
      mockRunner(() => broken),
      OPTIONS,
    );
    const [a, b] = [engine.addRequest([1, 2, 3, 4, 5]), engine.addRequest([6, 7])];
    const updates = await runAll(engine);
    expect(updates.map((u) => [u.requestId, u.error?.message])).toEqual([
      [a, 'the device is on fire'],
      [b, 'the device is on fire'],
    ]);
    expect(engine.numFreeBlocks).toBe(16);
    broken = false;
    engine.addRequest([1, 2], { maxTokens: 3 });
    const [done] = (await runAll(engine)).filter((u) => u.output);
    expect(done.output?.tokenIds).toHaveLength(3);
  });

  test('a request that was not in the failed step is not touched', async () => {
    const engine = new LLMEngine(
      mockRunner((batch) => batch.seqs.some((seq) => seq.tokenIds[0] === 66)),
      OPTIONS,
    );
    const bad = engine.addRequest([66], { maxTokens: 5 });
    const updates = await engine.step();
    const good = engine.addRequest([1], { maxTokens: 5 });
    expect(updates).toMatchObject([{ requestId: bad, error: { message: 'the device is on fire' } }]);
    const outputs = (await runAll(engine)).filter((u) => u.output);
    expect(outputs.map((u) => u.requestId)).toEqual([good]);
  });

  test('abort reports what there is, once, and ignores ids it does not know', async () => {
    const engine = new LLMEngine(mockRunner(), OPTIONS);
    const id = engine.addRequest([1, 2, 3], { maxTokens: 20 });
    await engine.step();
    await engine.step();
    engine.abort(id);
    engine.abort(id);
    engine.abort(999);
    const updates = await runAll(engine);
    expect(updates).toHaveLength(1);
    expect(updates[0].output).toMatchObject({ finishReason: 'abort', tokenIds: [7, 14] });
    expect(engine.numFreeBlocks).toBe(16);
  });

  test('abort ends the request it names, and none that has ended', async () => {
    const engine = new LLMEngine(mockRunner(), OPTIONS);
    const [first, second, short] = [20, 20, 1].map((maxTokens) => engine.addRequest([1, 2, 3], { maxTokens }));
    await engine.step();
    engine.abort(short);
    engine.abort(second);
    const updates = await engine.step();
    expect(updates.flatMap(({ requestId, output }) => (output ? [requestId] : []))).toEqual([second]);
    expect(updates[0]).toMatchObject({ text: '', tokenIds: [] });
    engine.abort(first);
    await runAll(engine);
  });

  test('aborted while its step runs: the drawn token is dropped', async () => {
    const engine = new LLMEngine(mockRunner(), OPTIONS);
    const id = engine.addRequest([1, 2, 3]);
    const stepping = engine.step();
    engine.abort(id);
    expect(await stepping).toEqual([]);
    expect((await runAll(engine))[0].output?.tokenIds).toEqual([]);
    expect(engine.numFreeBlocks).toBe(16);
  });

  test('counters add up', async () => {
    const engine = new LLMEngine(mockRunner(), OPTIONS);
    engine.addRequest([1, 2, 3, 4, 5], { maxTokens: 4, ignoreEos: true });
    await runAll(engine);
    expect(engine.counters).toMatchObject({
      steps: 4,
      promptTokens: 5,
      generatedTokens: 4,
      prefillTokens: 5,
      decodeTokens: 3,
    });
  });

  test('prefill and decode are counted apart: steps, tokens, seconds; time between steps is nobody’s', async () => {
    let clock = 40_000;
    vi.spyOn(performance, 'now').mockImplementation(() => clock);
    const runner = mockRunner();
    const launch = (batch: Batch) => {
      clock += batch.isPrefill ? 1000 : 10; // milliseconds a step takes
      return runner.launch(batch);
    };
    const engine = new LLMEngine({ ...runner, launch }, { ...OPTIONS, maxNumBatchedTokens: 4 });
    engine.addRequest([1, 2, 3, 4, 5, 6], { maxTokens: 3, ignoreEos: true });
    const step = async () => {
      clock += 5000;
      await engine.step();
      return engine.counters;
    };
    const chunk = { steps: 1, prefillTokens: 4, prefillSeconds: 1, generatedTokens: 0, decodeTokens: 0 };
    expect(await step()).toMatchObject(chunk);
    expect(await step()).toMatchObject({ steps: 2, prefillTokens: 6, generatedTokens: 1, decodeSeconds: 0 });
    await step();
    expect(await step()).toMatchObject({ steps: 4, prefillTokens: 6, generatedTokens: 3, decodeTokens: 2 });
    expect(engine.counters).toMatchObject({ prefillSeconds: 2, discardedTokens: 0 });
    expect(engine.counters.decodeSeconds).toBeCloseTo(0.02, 12);
    vi.restoreAllMocks();
  });

  test('says how many wait and run', async () => {
    const engine = new LLMEngine(mockRunner(), { ...OPTIONS, maxNumSeqs: 1 });
    expect(engine.hasUnfinishedRequests).toBe(false);
    for (const token of [1, 2, 3]) engine.addRequest([token], { maxTokens: 2, ignoreEos: true });
    expect([engine.numWaiting, engine.numRunning, engine.numFreeBlocks]).toEqual([3, 0, 16]);
    await engine.step();
    expect([engine.numWaiting, engine.numRunning, engine.numFreeBlocks]).toEqual([2, 1, 15]);
    await runAll(engine);
    expect([engine.numWaiting, engine.numRunning, engine.numPreemptions]).toEqual([0, 0, 0]);
  });

  test('requests are numbered from 0, and the number is what seeds the draws of those without a seed', async () => {
    const seen: number[] = [];
    const runner = mockRunner((batch) => {
      seen.push(...batch.seqs.map(({ requestIndex }) => requestIndex));
      return false;
    });
    const engine = new LLMEngine(runner, OPTIONS);
    const params = new SamplingParams({ maxTokens: 1 });
    expect([engine.addRequest([1], params), engine.addRequest([2], params)]).toEqual([0, 1]);
    await runAll(engine);
    expect(seen).toEqual([0, 1]);
  });

  test('a refused request changes nothing', () => {
    const engine = new LLMEngine(mockRunner(), OPTIONS);
    expect(() => engine.addRequest([500])).toThrow('Token id 500 is not in the vocabulary');
    expect(() => engine.addRequest([5], { temperature: -1 })).toThrow('temperature');
    expect([engine.numWaiting, engine.counters.promptTokens, engine.addRequest([5])]).toEqual([0, 0, 0]);
  });

  test('what a prompt found in the cache is told and counted, once', async () => {
    const engine = new LLMEngine(mockRunner(), { ...OPTIONS, numKvCacheBlocks: 5, maxModelLen: 20 });
    const prompt = [1, 2, 3, 4, 5, 6, 7, 8];
    const outputs = async () => (await runAll(engine)).flatMap(({ output }) => output ?? []);
    engine.addRequest(prompt, { maxTokens: 1 });
    expect((await outputs())[0].numCachedTokens).toBe(0);
    // Two that share a block. The younger is preempted, and finds more in the cache when it comes back; that is no prompt.
    for (let i = 0; i < 2; i++) engine.addRequest(prompt, { maxTokens: 9, ignoreEos: true });
    expect((await outputs()).map(({ numCachedTokens }) => numCachedTokens)).toEqual([4, 4]);
    expect(engine.numPreemptions).toBeGreaterThan(0);
    expect(engine.counters.cachedPromptTokens).toBe(8);
  });

  test('of a prompt in chunks only what was there before the first counts as cached', async () => {
    const engine = new LLMEngine(mockRunner(), { ...OPTIONS, maxNumBatchedTokens: 4 });
    engine.addRequest([1, 2, 3, 4, 5, 6, 7, 8, 9], { maxTokens: 1 });
    const updates = await runAll(engine);
    expect(updates.at(-1)?.output?.numCachedTokens).toBe(0);
    expect(engine.counters.cachedPromptTokens).toBe(0);
  });

  test('an error that is none becomes one, and only those that had not ended hear of it', async () => {
    const runner = mockRunner();
    const engine = new LLMEngine(
      {
        ...runner,
        launch: async (batch: Batch) => {
          if (batch.isPrefill) return runner.launch(batch);
          throw 'out of memory';
        },
      },
      OPTIONS,
    );
    const [gone, stays] = [engine.addRequest([1, 2]), engine.addRequest([3, 4])];
    await engine.step();
    const stepping = engine.step();
    engine.abort(gone);
    expect(await stepping).toEqual([
      { requestId: stays, text: '', tokenIds: [], logprobs: undefined, error: new Error('out of memory') },
    ]);
    expect((await engine.step()).map(({ requestId, output }) => [requestId, output?.finishReason])).toEqual([
      [gone, 'abort'],
    ]);
    expect(engine.numFreeBlocks).toBe(16);
  });

  test('closing it closes its runner', () => {
    let closed = 0;
    const engine = new LLMEngine({ ...mockRunner(), close: () => closed++ }, OPTIONS);
    engine.close();
    expect(closed).toBe(1);
  });

  test('its books can be checked', async () => {
    const engine = new LLMEngine(mockRunner(), OPTIONS);
    engine.addRequest([1, 2]);
    await engine.step();
    const [seq] = engine.parts.scheduler.running;
    seq.blockTable.push(9);
    expect(() => engine.checkIntegrity()).toThrow('Block 9 counts 0 references; block tables hold 1.');
  });

  test('the hash of prefix caching can be replaced', async () => {
    let hashed = 0;
    const hash = () => hashed++;
    const engine = new LLMEngine(mockRunner(), { ...OPTIONS, hash });
    engine.addRequest([1, 2, 3, 4, 5], { maxTokens: 1 });
    while (engine.hasUnfinishedRequests) await engine.step();
    expect(hashed).toBeGreaterThan(0);
  });
});

describe('text', () => {
  const tokenizer = sentencePieceTokenizer();
  const [a, b, c] = ['a', 'b', 'c'].map((text) => tokenizer.encode(text, { addSpecialTokens: false }).at(-1) as number);

  /** An engine whose only request draws these tokens. */
  function setup(tokens: number[], options: Partial<EngineOptions> = {}) {
    const runner = {
      launch: async ({ seqs }: Batch): Promise<StepResult> => ({
        tokenIds: seqs.map(({ numOutputTokens }) => tokens[numOutputTokens]),
        logprobs: new Map([[0, { logprob: -1, top: [] }]]),
      }),
      close() {},
    };
    return new LLMEngine(runner, { ...OPTIONS, vocabSize: 300, tokenizer, ...options });
  }

  test('comes with the token that makes it certain; what is held back comes with the last', async () => {
    const engine = setup([c, a, a]);
    engine.addRequest('c', { stop: ['ab'], maxTokens: 3 });
    const updates = await runAll(engine);
    expect(updates.map(({ text, tokenIds }) => [text, tokenIds])).toEqual([
      ['c', [c]],
      ['', [a]],
      ['aa', [a]],
    ]);
    expect(updates.at(-1)?.output).toMatchObject({ prompt: 'c', text: 'caa', finishReason: 'length' });
  });

  test('ends before a stop string, also where the same token is the last by its length', async () => {
    for (const maxTokens of [3, 9]) {
      const engine = setup([c, a, b, c]);
      engine.addRequest([5], { stop: ['ab'], maxTokens });
      const updates = await runAll(engine);
      expect(updates.map(({ text }) => text)).toEqual(['c', '', '']);
      expect(updates.at(-1)?.output).toMatchObject({
        prompt: undefined,
        text: 'c',
        tokenIds: [c, a, b],
        finishReason: 'stop',
      });
      expect(engine.numFreeBlocks).toBe(16);
      expect(engine.numRunning).toBe(0);
    }
  });

  test('that was held back comes out when the request is aborted', async () => {
    const engine = setup([c, a, b]);
    const id = engine.addRequest([5], { stop: ['ab'], maxTokens: 9 });
    await engine.step();
    await engine.step();
    engine.abort(id);
    expect(await engine.step()).toMatchObject([
      { requestId: id, text: 'a', tokenIds: [], output: { text: 'ca', tokenIds: [c, a], finishReason: 'abort' } },
    ]);
    expect(await engine.step()).toEqual([]);
  });

  test('and log-probabilities go with their token', async () => {
    const engine = setup([c, a]);
    engine.addRequest([5], { logprobs: 0, maxTokens: 2 });
    const entry = { logprob: -1, top: [] };
    const updates = await runAll(engine);
    expect(updates.map(({ logprobs }) => logprobs)).toEqual([[entry], [entry]]);
    expect(updates[1].output?.logprobs).toEqual([entry, entry]);
  });
});
