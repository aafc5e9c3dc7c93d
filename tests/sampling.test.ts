import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { filterTokens } from '#nano/backends/reference/sample';
import { platform } from '#nano/platform';
import type { Backend } from '#nano/tensor/kernels';
import { Ops } from '#nano/tensor/ops';
import { philox4x32 } from '#nano/utils/philox';
import { TEST_BACKENDS } from './helpers/backends';

interface Draw {
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  seed: number;
  position: number;
}

/** Draws one token per entry, each from its own row of logits. */
async function draw(backend: Backend, rows: readonly Float32Array[], draws: readonly Draw[]): Promise<number[]> {
  const ops = new Ops(backend, 'float32');
  const vocab = rows[0].length;
  const logits = new Float32Array(rows.length * vocab);
  rows.forEach((row, b) => logits.set(row, b * vocab));
  const run = () => {
    const floats = (value: (d: Draw) => number) => ops.fromHost(Float32Array.from(draws, value));
    const ints = (value: (d: Draw) => number) => ops.fromHost(Int32Array.from(draws, value));
    const seed = ops.fromHost(Int32Array.from(draws.flatMap((d) => [d.seed | 0, 0])), [draws.length, 2]);
    return ops.sample(ops.fromHost(logits, [rows.length, vocab]), {
      temperature: floats((d) => d.temperature),
      topK: ints((d) => d.topK),
      topP: floats((d) => d.topP),
      minP: floats((d) => d.minP),
      seed,
      position: ints((d) => d.position),
    });
  };
  ops.reserveFor(run);
  return [...((await ops.scope(() => backend.read(run()))) as Int32Array)];
}

/**
 * Pearson's statistic of observed counts against probabilities. With n - 1 degrees of freedom its mean is n - 1 and its
 * variance 2(n - 1); five standard deviations above the mean happen by chance less than once in 10,000 runs of this file.
 */
function chiSquaredTooLarge(counts: readonly number[], probabilities: readonly number[], total: number): boolean {
  let statistic = 0;
  let bins = 0;
  counts.forEach((count, i) => {
    const expected = probabilities[i] * total;
    if (expected === 0) {
      if (count > 0) statistic = Infinity;
      return;
    }
    statistic += (count - expected) ** 2 / expected;
    bins++;
  });
  return statistic > bins - 1 + 5 * Math.sqrt(2 * (bins - 1));
}

/** The definition, by sorting: which tokens may be drawn, and how likely each is. */
function definition(probabilities: readonly number[], { topK, topP, minP }: Draw): number[] {
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  let kept = order.filter((i) => probabilities[i] >= minP * probabilities[order[0]]);
  if (topK > 0) kept = kept.slice(0, topK);
  const mass = kept.reduce((sum, i) => sum + probabilities[i], 0);
  let [cumulative, nucleus] = [0, 0];
  while (cumulative < topP * mass - 1e-12 && nucleus < kept.length) cumulative += probabilities[kept[nucleus++]];
  kept = kept.slice(0, Math.max(1, nucleus));
  const total = kept.reduce((sum, i) => sum + probabilities[i], 0);
  return probabilities.map((p, i) => (kept.includes(i) ? p / total : 0));
}

const PROBABILITIES = [0.02, 0.3, 0.08, 0.25, 0.05, 0.15, 0.1, 0.05];
const off = { temperature: 1, topK: 0, topP: 1, minP: 0 };

describe.each(TEST_BACKENDS)('sampling on %s', (name) => {
  const backend = platform.createBackend(name);
  afterAll(() => backend.close());

  test.each<[string, Partial<Draw>]>([
    ['plain', {}],
    ['temperature 0.7', { temperature: 0.7 }],
    ['temperature 2', { temperature: 2 }],
    ['top-k 3', { topK: 3 }],
    // 0.3 + 0.25 = 0.55 < 0.6: the third token crosses and must be kept; dropping it, or keeping a fourth, fails.
    ['top-p 0.6, crossed by the third token', { topP: 0.6 }],
    ['top-p reached exactly', { topP: 0.3 + 1e-9 }],
    ['min-p 0.3', { minP: 0.3 }],
    ['all at once: min-p, then top-k, then top-p of what is left', { minP: 0.2, topK: 4, topP: 0.8 }],
  ])('%s follows its definition', async (_, options) => {
    const total = 40_000;
    const params = { ...off, ...options };
    const logits = Float32Array.from(PROBABILITIES, (p) => Math.log(p));
    const draws = Array.from({ length: total }, (_, i) => ({ ...params, seed: i * 7919, position: i % 5 }));
    const tokens = await draw(backend, Array(total).fill(logits), draws);
    const scaled = PROBABILITIES.map((p) => p ** (1 / params.temperature));
    const sum = scaled.reduce((a, b) => a + b, 0);
    const expected = definition(
      scaled.map((p) => p / sum),
      draws[0],
    );
    const counts = PROBABILITIES.map((_, id) => tokens.filter((token) => token === id).length);
    expect(chiSquaredTooLarge(counts, expected, total), `${counts} of ${total}, expected ${expected}`).toBe(false);
  });

  test('the statistic would notice a top-p that is off by one token', () => {
    const total = 40_000;
    const right = definition(PROBABILITIES, { ...off, topP: 0.6, seed: 0, position: 0 });
    const wrong = definition(PROBABILITIES, { ...off, topP: 0.55, seed: 0, position: 0 });
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
    const greedy = { ...off, temperature: 0, seed: 1, position: 0 };
    expect(await draw(backend, rows, [greedy, greedy])).toEqual([1, 1]);
  });

  test('the same seed and position draw the same token, alone or in a batch', async () => {
    const random = Float32Array.from({ length: 500 }, (_, i) => Math.sin(i * 12.9898) * 3);
    const draws = Array.from({ length: 64 }, (_, i) => ({ ...off, topP: 0.9, seed: 5 + (i % 4), position: i >> 2 }));
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
