import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { filterTokens } from '#nano/backends/reference/sample';
import { platform } from '#nano/platform';
import { philox4x32 } from '#nano/utils/philox';
import { TEST_BACKENDS } from './helpers/backends';
import {
  chiSquaredTooLarge,
  definition,
  differsFromDefinition,
  draw,
  FILTERS,
  NO_FILTERS,
  PROBABILITIES,
} from './helpers/sampling';

describe.each(TEST_BACKENDS)('sampling on %s', (name) => {
  const backend = platform.createBackend(name);
  afterAll(() => backend.close());

  test.each(FILTERS)('%s follows its definition', async (_, options) => {
    expect(await differsFromDefinition(backend, options)).toBeNull();
  });

  test('the statistic would notice a top-p that is off by one token', () => {
    const total = 40_000;
    const right = definition(PROBABILITIES, { ...NO_FILTERS, topP: 0.6 });
    const wrong = definition(PROBABILITIES, { ...NO_FILTERS, topP: 0.55 });
    expect(wrong).not.toEqual(right);
    expect(
      chiSquaredTooLarge(
        wrong.map((p) => Math.round(p * total)),
        right,
        total,
      ),
    ).toBe(true);
  });

  test('temperature 0 takes the largest logit, and the lowest id among equals', async () => {
    const rows = [Float32Array.from([1, 5, 5, 2]), Float32Array.from([-3, -2, -9, -2])];
    const greedy = { ...NO_FILTERS, temperature: 0, seed: 1, position: 0 };
    expect(await draw(backend, rows, [greedy, greedy])).toEqual([1, 1]);
  });

  test('the same seed and position draw the same token, alone or in a batch', async () => {
    const random = Float32Array.from({ length: 500 }, (_, i) => Math.sin(i * 12.9898) * 3);
    const draws = Array.from({ length: 64 }, (_, i) => ({
      ...NO_FILTERS,
      topP: 0.9,
      seed: 5 + (i % 4),
      position: i >> 2,
    }));
    const batch = await draw(backend, Array(64).fill(random), draws);
    for (const i of [0, 1, 17, 63]) expect(await draw(backend, [random], [draws[i]])).toEqual([batch[i]]);
    expect(new Set(batch).size).toBeGreaterThan(20);
  });
});

test.runIf(TEST_BACKENDS.includes('cpu'))('both backends draw the same tokens', async () => {
  const [reference, cpu] = [platform.createBackend('reference'), platform.createBackend('cpu')];
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 3000 }),
      fc.integer(),
      fc.record({
        temperature: fc.constantFrom(0, 0.3, 1, 1.7),
        topK: fc.constantFrom(0, 1, 5, 60),
        topP: fc.constantFrom(1, 0.95, 0.5, 0.01),
        minP: fc.constantFrom(0, 0.05, 0.5, 1),
      }),
      async (vocab, salt, params) => {
        // Whole and half numbers, so that ties at the edges of top-k and top-p happen often.
        const rows = Array.from({ length: 4 }, (_, b) =>
          Float32Array.from({ length: vocab }, (_, i) => Math.round(Math.sin((i + 1) * (b + salt + 0.5)) * 12) / 2),
        );
        const draws = rows.map((_, b) => ({ ...params, seed: salt + b, position: b * 3 }));
        expect(await draw(cpu, rows, draws)).toEqual(await draw(reference, rows, draws));
      },
    ),
    { numRuns: 300 },
  );
  reference.close();
  cpu.close();
});

test('Philox gives the published values', () => {
  // Known-answer test of Random123, philox4x32 with 10 rounds.
  const hex = (words: readonly number[]) => words.map((w) => w.toString(16).padStart(8, '0'));
  expect(hex(philox4x32([0, 0, 0, 0], [0, 0]))).toEqual(['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']);
  const ones = 0xffffffff;
  expect(hex(philox4x32([ones, ones, ones, ones], [ones, ones]))).toEqual([
    '408f276d',
    '41c83b0e',
    'a20bc7c6',
    '6d5451fd',
  ]);
});

test('a filter never leaves no token', () => {
  fc.assert(
    fc.property(fc.array(fc.float({ min: -50, max: 50, noNaN: true }), { minLength: 1, maxLength: 20 }), (logits) => {
      expect(filterTokens(Float32Array.from(logits), 0.01, 1, Number.MIN_VALUE, 1).length).toBe(1);
    }),
  );
});
