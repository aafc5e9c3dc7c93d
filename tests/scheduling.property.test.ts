import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { LLMEngine } from '#nano/engine/llm-engine';
import type { RequestOutput } from '#nano/engine/outputs';
import { platform } from '#nano/platform';
import type { TokenHash } from '#nano/utils/hash';
import { TEST_BACKENDS } from './helpers/backends';
import { TINY_CONFIG, TinyModel } from './helpers/tiny-model';

const VOCAB = TINY_CONFIG.vocab_size;

interface WorkItem {
  prompt: number[];
  maxTokens: number;
  /** The step before which the request arrives, and the one before which it is aborted. */
  arrives: number;
  aborted: number | null;
  temperature: number;
}

interface Workload {
  blockSize: number;
  maxModelLen: number;
  spareBlocks: number;
  maxNumSeqs: number;
  extraTokens: number;
  enablePrefixCaching: boolean;
  enforceEager: boolean;
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
  requests: fc.array(
    fc.record({
      prompt: promptArbitrary,
      maxTokens: fc.integer({ min: 1, max: 14 }),
      arrives: fc.integer({ min: 0, max: 12 }),
      aborted: fc.option(fc.integer({ min: 0, max: 20 }), { freq: 5 }),
      temperature: fc.constantFrom(0, 0, 0, 1),
    }),
    { minLength: 1, maxLength: 8 },
  ),
});

const seen = { steps: 0, preemptions: 0, cachedTokens: 0, chunked: 0, aborted: 0 };

async function runAlone(
  model: TinyModel,
  { prompt, maxTokens, temperature }: WorkItem,
  seed: number,
  maxModelLen: number,
) {
  const engine = model.engine({ numKvCacheBlocks: 8, kvCacheBlockSize: 64, maxModelLen, enablePrefixCaching: false });
  engine.addRequest(prompt, { temperature, maxTokens, seed });
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
    for (const { i, prompt, maxTokens, temperature, arrives } of todo) {
      if (arrives === step) ids[i] = engine.addRequest(prompt, { temperature, maxTokens, seed: i });
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

async function check(model: TinyModel, workload: Workload, hash?: TokenHash): Promise<void> {
  const { blockSize, maxModelLen, maxNumSeqs } = workload;
  const numKvCacheBlocks = Math.ceil(maxModelLen / blockSize) + workload.spareBlocks;
  const maxNumBatchedTokens = maxNumSeqs + workload.extraTokens;
  const alone: RequestOutput[] = [];
  for (const [i, item] of workload.requests.entries()) alone.push(await runAlone(model, item, i, maxModelLen));

  const engine = model.engine(
    {
      numKvCacheBlocks,
      kvCacheBlockSize: blockSize,
      maxModelLen,
      maxNumSeqs,
      maxNumBatchedTokens,
      enablePrefixCaching: workload.enablePrefixCaching,
      enforceEager: workload.enforceEager,
    },
    hash,
  );
  const together = await runTogether(engine, workload);
  workload.requests.forEach((item, i) => {
    const { tokenIds, finishReason } = together[i];
    if (finishReason === 'abort') {
      expect(item.aborted).not.toBeNull();
      expect(tokenIds).toEqual(alone[i].tokenIds.slice(0, tokenIds.length));
      seen.aborted++;
    } else {
      expect({ tokenIds, finishReason }).toEqual({ tokenIds: alone[i].tokenIds, finishReason: alone[i].finishReason });
    }
    if (item.prompt.length > maxNumBatchedTokens) seen.chunked++;
  });
  expect(engine.numFreeBlocks).toBe(numKvCacheBlocks);
  seen.preemptions += engine.numPreemptions;
  seen.cachedTokens += engine.counters.cachedPromptTokens;
}

describe('scheduling never changes results', () => {
  test.each(TEST_BACKENDS)('%s: 1,000 random workloads', async (backendName) => {
    const model = new TinyModel(platform.createBackend(backendName));
    await fc.assert(
      fc.asyncProperty(workloadArbitrary, (workload) => check(model, workload)),
      { numRuns: 1000 },
    );
    model.backend.close();
    console.log(`${backendName}: seen so far`, seen);
    // A run that never met what it is meant to test proves nothing.
    expect(Math.min(...Object.values(seen))).toBeGreaterThan(50);
  });

  test.each<[string, TokenHash]>([
    ['every block has the same hash', () => 7],
    ['only the last token counts', (tokens) => tokens[tokens.length - 1]],
    ['only the tokens count, not the prefix', (tokens) => tokens.reduce((sum, t) => sum * 61 + t, 1)],
  ])('colliding hashes never serve wrong cache: %s', async (_, hash) => {
    const model = new TinyModel(platform.createBackend('reference'));
    await fc.assert(
      fc.asyncProperty(workloadArbitrary, (workload) => check(model, { ...workload, enablePrefixCaching: true }, hash)),
      { numRuns: 100 },
    );
  });
});
