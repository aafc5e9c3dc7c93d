import { describe, expect, test } from 'vitest';
import { type EngineOptions, LLMEngine } from '#nano/engine/llm-engine';
import type { StepResult } from '#nano/engine/model-runner';
import type { RequestUpdate } from '#nano/engine/outputs';
import type { Batch } from '#nano/engine/scheduler';

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
});
