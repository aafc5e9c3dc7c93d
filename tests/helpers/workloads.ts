import fc from 'fast-check';
import { expect } from 'vitest';
import type { LLMEngine } from '#nano/engine/llm-engine';
import type { RequestOutput } from '#nano/engine/outputs';
import type { TokenHash } from '#nano/utils/hash';
import { TINY_CONFIG, type TinyModel } from './tiny-model';

const VOCAB = TINY_CONFIG.vocab_size;

export interface WorkItem {
  prompt: number[];
  maxTokens: number;
  /** The step before which the request arrives, and the one before which it is aborted. */
  arrives: number;
  aborted: number | null;
  temperature: number;
  stopTokenIds: number[];
  logprobs: number | undefined;
}

/** Requests, and an engine for them. */
export interface Workload {
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

export const workloadArbitrary: fc.Arbitrary<Workload> = fc.record({
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

/** How often workloads met what they are meant to test. */
export type Seen = Record<
  'steps' | 'preemptions' | 'cachedTokens' | 'chunked' | 'aborted' | 'discarded' | 'stoppedAhead',
  number
>;

export const nothingSeen = (): Seen => ({
  steps: 0,
  preemptions: 0,
  cachedTokens: 0,
  chunked: 0,
  aborted: 0,
  discarded: 0,
  stoppedAhead: 0,
});

/** The same weights on a backend and on a device with graphs: a GPU, or a fake one over the backend. */
export interface WorkloadModels {
  readonly plain: TinyModel;
  readonly device: TinyModel;
}

/** Each request by itself: one after the other, with nothing shared. */
async function runAlone(model: TinyModel, { requests, maxModelLen }: Workload): Promise<RequestOutput[]> {
  const cache = { numKvCacheBlocks: 8, kvCacheBlockSize: 64, enablePrefixCaching: false };
  const engine = model.engine({ ...cache, maxModelLen, maxNumSeqs: 1, runAhead: false });
  const outputs: RequestOutput[] = [];
  for (const [seed, { prompt, arrives, aborted, ...params }] of requests.entries()) {
    engine.addRequest(prompt, { ...params, seed });
    while (engine.hasUnfinishedRequests) {
      for (const { output } of await engine.step()) if (output) outputs.push(output);
    }
  }
  engine.close();
  return outputs;
}

/** Runs a workload step by step, checking the block manager's books after each. */
async function runTogether(engine: LLMEngine, workload: Workload, seen: Seen): Promise<RequestOutput[]> {
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

/** Results of all requests together must be those of each alone, to the last bit. */
export async function checkWorkload(
  models: WorkloadModels,
  workload: Workload,
  seen: Seen,
  hash?: TokenHash,
): Promise<void> {
  const { blockSize, maxModelLen, maxNumSeqs } = workload;
  const numKvCacheBlocks = Math.ceil(maxModelLen / blockSize) + workload.spareBlocks;
  const maxNumBatchedTokens = maxNumSeqs + workload.extraTokens;
  const alone = await runAlone(models.plain, workload);

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
  const together = await runTogether(engine, workload, seen);
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
