import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { platform } from '#nano/platform';
import type { TokenHash } from '#nano/utils/hash';
import { TEST_BACKENDS } from './helpers/backends';
import { fakeDevice } from './helpers/fake-device';
import { TinyModel } from './helpers/tiny-model';
import { checkWorkload, nothingSeen, workloadArbitrary } from './helpers/workloads';

const seen = nothingSeen();

/** The same weights on a backend and on a fake device over it. */
function modelsOn(backendName: 'reference' | 'cpu') {
  const backend = platform.createBackend(backendName);
  return { plain: new TinyModel(backend), device: new TinyModel(fakeDevice(backend)), close: () => backend.close() };
}

describe('scheduling never changes results', () => {
  test.each(TEST_BACKENDS)('%s: 1,000 random workloads', async (backendName) => {
    const models = modelsOn(backendName);
    await fc.assert(
      fc.asyncProperty(workloadArbitrary, (workload) => checkWorkload(models, workload, seen)),
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
        checkWorkload(models, { ...workload, enablePrefixCaching: true }, seen, hash),
      ),
      { numRuns: 100 },
    );
  });
});
