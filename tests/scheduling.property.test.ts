import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { LLMEngine } from '#nano/engine/llm-engine';
import type { RequestOutput } from '#nano/engine/outputs';
import { platform } from '#nano/platform';
import type { TokenHash } from '#nano/utils/hash';
import { TEST_BACKENDS } from './helpers/backends';
import { fakeDevice } from './helpers/fake-device';
import { TINY_CONFIG, TinyModel } from './helpers/tiny-model';

const VOCAB = TINY_CONFIG.vocab_size;

interface WorkItem {
  prompt: number[];
  maxTokens: number;
  /** The step before which the request arrives, and the one before which it is aborted. */
  arrives: number;
  aborted: number | null;
  temperature: number;
  stopTokenIds: number[];
  logprobs: number | undefined;
}

interface Workload {
  blockSize: number;
  maxModelLen: number;
  spareBlocks: number;
  maxNumSeqs: number;
  extraTokens: number;
  enablePrefixCaching: boolean;
  enforceEager: boolean;
  /** Launch a step before the results of the one before are known. */
  runAhead: boolean;
  /** `device`: captured as graphs, all sizes up front. */
  decode: 'exact' | 'padded' | 'device';
  requests: WorkItem[];
}

/** Prompts are cut from a few fixed texts and given a tail, so that many begin alike. */
const promptArbitrary = fc
  .record({
    text: fc.integer({ min: 0, max: 2 }),
    shared: fc.integer({ min: 0, max: 20 }),
    tail: fc.array(fc.integer({ min: 1, max: VOCAB - 1 }), { minLength: 1, maxLength: 6 }),
  })
  .map(({ text, shared, tail }) => [
    ...Array.from({ length: shared }, (_, i) => 1 + ((i * 7 + text * 13) % (VOCAB - 1))),
    ...tail,
  ]);

const workloadArbitrary: fc.Arbitrary<Workload> = fc.record({
  blockSize: fc.integer({ min: 1, max: 8 }),
  maxModelLen: fc.integer({ min: 28, max: 40 }),
  spareBlocks: fc.integer({ min: 0, max: 6 }),
  maxNumSeqs: fc.integer({ min: 1, max: 6 }),
  extraTokens: fc.integer({ min: 0, max: 24 }),
  enablePrefixCaching: fc.boolean(),
  enforceEager: fc.boolean(),
  runAhead: fc.boolean(),
  decode: fc.constantFrom('exact', 'padded', 'device'),
  requests: fc.array(
    fc.record({
      prompt: promptArbitrary,
      maxTokens: fc.integer({ min: 1, max: 14 }),
      arrives: fc.integer({ min: 0, max: 12 }),
      aborted: fc.option(fc.integer({ min: 0, max: 20 }), { freq: 5 }),
      temperature: fc.constantFrom(0, 0, 0, 1),
      stopTokenIds: fc.uniqueArray(fc.integer({ min: 1, max: VOCAB - 1 }), { maxLength: 6 }),
      logprobs: fc.constantFrom(undefined, undefined, 2),
    }),
    { minLength: 1, maxLength: 8 },
  ),
});

const seen = { steps: 0, preemptions: 0, cachedTokens: 0, chunked: 0, aborted: 0, discarded: 0, stoppedAhead: 0 };

async function runAlone(
  model: TinyModel,
  { prompt, arrives, aborted, ...params }: WorkItem,
  seed: number,
  maxModelLen: number,
) {
  const engine = model.engine({ numKvCacheBlocks: 8, kvCacheBlockSize: 64, maxModelLen, enablePrefixCaching: false });
  engine.addRequest(prompt, { ...params, seed });
  for (;;) {
    for (const { output } of await engine.step()) if (output) return output;
  }
}

/** Runs a workload step by step, checking the block manager's books after each. */
async function runTogether(engine: LLMEngine, workload: Workload): Promise<RequestOutput[]> {
  const outputs: RequestOutput[] = [];
  const ids: number[] = [];
  const todo = workload.requests.map((item, i) => ({ ...item, i }));
  for (let step = 0; todo.some((item) => ids[item.i] === undefined) || engine.hasUnfinishedRequests; step++) {
    for (const { i, prompt, arrives, aborted, ...params } of todo) {
      if (arrives === step) ids[i] = engine.addRequest(prompt, { ...params, seed: i });
    }
    for (const { i, aborted, arrives } of todo) {
      if (aborted !== null && Math.max(aborted, arrives) === step) engine.abort(ids[i]);
    }
    for (const { requestId, output, error } of await engine.step()) {
      if (error) throw error;
      if (output) outputs[ids.indexOf(requestId)] = output;
    }
    engine.checkIntegrity();
    seen.steps++;
    expect(step).toBeLessThan(2000);
  }
  return outputs;
}

/** The same weights on a backend and on a fake device over it. */
function modelsOn(backendName: 'reference' | 'cpu') {
  const backend = platform.createBackend(backendName);
  return { plain: new TinyModel(backend), device: new TinyModel(fakeDevice(backend)), close: () => backend.close() };
}

async function check(models: ReturnType<typeof modelsOn>, workload: Workload, hash?: TokenHash): Promise<void> {
  const { blockSize, maxModelLen, maxNumSeqs } = workload;
  const numKvCacheBlocks = Math.ceil(maxModelLen / blockSize) + workload.spareBlocks;
  const maxNumBatchedTokens = maxNumSeqs + workload.extraTokens;
  const alone: RequestOutput[] = [];
  for (const [i, item] of workload.requests.entries()) alone.push(await runAlone(models.plain, item, i, maxModelLen));

  const model = workload.decode === 'device' ? models.device : models.plain;
  const engine = model.engine(
    {
      numKvCacheBlocks,
      kvCacheBlockSize: blockSize,
      maxModelLen,
      maxNumSeqs,
      maxNumBatchedTokens,
      enablePrefixCaching: workload.enablePrefixCaching,
      enforceEager: workload.enforceEager,
      runAhead: workload.runAhead,
      padDecodeBatches: workload.decode === 'padded',
    },
    hash,
  );
  const together = await runTogether(engine, workload);
  workload.requests.forEach((item, i) => {
    const { tokenIds, finishReason, logprobs } = together[i];
    if (finishReason === 'abort') {
      expect(item.aborted).not.toBeNull();
      expect(tokenIds).toEqual(alone[i].tokenIds.slice(0, tokenIds.length));
      seen.aborted++;
    } else {
      const { tokenIds: expected, finishReason: reason } = alone[i];
      expect({ tokenIds, finishReason, logprobs }).toEqual({
        tokenIds: expected,
        finishReason: reason,
        logprobs: alone[i].logprobs,
      });
    }
    if (item.prompt.length > maxNumBatchedTokens) seen.chunked++;
    if (workload.runAhead && finishReason === 'stop') seen.stoppedAhead++;
  });
  expect(engine.numFreeBlocks).toBe(numKvCacheBlocks);
  seen.preemptions += engine.numPreemptions;
  seen.cachedTokens += engine.counters.cachedPromptTokens;
  seen.discarded += engine.counters.discardedTokens;
  engine.close();
}

describe('scheduling never changes results', () => {
  test.each(TEST_BACKENDS)('%s: 1,000 random workloads', async (backendName) => {
    const models = modelsOn(backendName);
    await fc.assert(
      fc.asyncProperty(workloadArbitrary, (workload) => check(models, workload)),
      { numRuns: 1000 },
    );
    models.close();
    console.log(`${backendName}: seen so far`, seen);
    // A run that never met what it is meant to test proves nothing.
    expect(Math.min(...Object.values(seen))).toBeGreaterThan(50);
  });

  test.each<[string, TokenHash]>([
    ['every block has the same hash', () => 7],
    ['only the last token counts', (tokens) => tokens[tokens.length - 1]],
    ['only the tokens count, not the prefix', (tokens) => tokens.reduce((sum, t) => sum * 61 + t, 1)],
  ])('colliding hashes never serve wrong cache: %s', async (_, hash) => {
    const models = modelsOn('reference');
    await fc.assert(
      fc.asyncProperty(workloadArbitrary, (workload) =>
        check(models, { ...workload, enablePrefixCaching: true }, hash),
      ),
      { numRuns: 100 },
    );
  });
});
