// The scheduling property on the GPU: whatever is batched, chunked, preempted, cached, captured or launched ahead, `batchInvariant`
// gives every request the very tokens and log-probabilities that it gets alone.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createCudaBackend } from '#nano/backends/cuda';
import { HAS_CUDA } from '../helpers/backends';
import { TinyModel } from '../helpers/tiny-model';
import { checkWorkload, nothingSeen, type WorkloadModels, workloadArbitrary } from '../helpers/workloads';

const WORKLOADS = Number(process.env.NANOVLLM_CUDA_WORKLOADS ?? 200);
/** Memory of an engine lives until its backend is closed: a new one after so many workloads. */
const WORKLOADS_PER_BACKEND = 50;
/** Milliseconds, shrinking of a failure included. */
const LIMIT = 30_000 + 500 * WORKLOADS;

describe.skipIf(!HAS_CUDA)('scheduling never changes results on cuda', () => {
  test.each([
    ['graphs', false],
    ['enforceEager', true],
  ] as const)(`${WORKLOADS} random workloads, %s`, { timeout: 30_000 + LIMIT }, async (_, enforceEager) => {
    const seen = nothingSeen();
    let models: (WorkloadModels & { close(): void }) | undefined;
    let runs = 0;
    const modelsNow = () => {
      if (runs++ % WORKLOADS_PER_BACKEND !== 0 && models) return models;
      models?.close();
      const backend = createCudaBackend({ batchInvariant: true });
      const model = new TinyModel(backend);
      return (models = { plain: model, device: model, close: () => backend.close() });
    };
    await fc.assert(
      fc.asyncProperty(workloadArbitrary, (workload) =>
        checkWorkload(modelsNow(), { ...workload, enforceEager }, seen),
      ),
      { numRuns: WORKLOADS, interruptAfterTimeLimit: LIMIT, markInterruptAsFailure: true },
    );
    models?.close();
    console.log(`${enforceEager ? 'eager' : 'graphs'}: seen`, seen);
    // A run that never met what it is meant to test proves nothing.
    expect(Math.min(...Object.values(seen))).toBeGreaterThan(WORKLOADS / 50);
  });
});
