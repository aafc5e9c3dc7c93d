import { inspect } from 'node:util';
import { describe, expect, test } from 'vitest';
import { meanNumber, poissonArrivals } from '#nano/bench/arrivals';
import { Costs, floorSeconds, ridge } from '#nano/bench/costs';
import { type RequestTimes, requestTimes, serviceTimes } from '#nano/bench/request-times';
import { bestAndMedian, holdsZero, mean, percentile, percentiles, sliceMeans, trend } from '#nano/bench/statistics';
import type { ModelConfig } from '#nano/models/model-config';

// Random inputs are new in every run; SEED=… repeats one, with the number that the failure shows.
const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 1e6));

/** A generator of numbers from 0 to 1 (mulberry32). */
function random(seed: number) {
  let state = seed;
  return (): number => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const list = <T>(length: number, make: (i: number) => T): T[] => Array.from({ length }, (_, i) => make(i));

/** What `work` throws. Says so when it throws nothing; lets an exercise that is still to do through. */
function thrownBy(work: () => unknown, what: string): Error {
  let result: unknown;
  try {
    result = work();
  } catch (error) {
    if ((error as Error).name === 'TodoError') throw error;
    return error as Error;
  }
  return expect.fail(`${what} should throw an error, but gave ${inspect(result)}`);
}

const expectRefusal = (work: () => unknown, what: string) =>
  expect(thrownBy(work, what), `the error for ${what}`).toBeInstanceOf(RangeError);

describe('7.1 Percentiles and summaries', () => {
  test('percentile: by hand', () => {
    const values = [10, 20, 30, 40];
    const expected = { 0: 10, 25: 17.5, 50: 25, 75: 32.5, 90: 37, 100: 40 };
    for (const [p, value] of Object.entries(expected)) {
      expect(percentile(values, Number(p)), `percentile ${p} of 10, 20, 30, 40`).toBeCloseTo(value, 9);
    }
    expect(percentile([1, 2, 4], 50), 'the median of 1, 2, 4: rank 1').toBe(2);
    expect(percentile([7], 99), 'any percentile of a single value').toBe(7);
  });

  test('percentile: values come in any order, and stay as they are', () => {
    const values = [9, 100, 10, 1];
    expect(percentile(values, 100), 'the largest of 9, 100, 10, 1').toBe(100);
    expect(percentile(values, 0), 'the smallest of 9, 100, 10, 1').toBe(1);
    expect(percentile(values, 50), 'the median of 9, 100, 10, 1').toBeCloseTo(9.5, 9);
    expect(values, 'the sample after the calls').toEqual([9, 100, 10, 1]);
    expect(percentile([-5, -40], 25), 'percentile 25 of -5, -40').toBeCloseTo(-31.25, 9);
  });

  test('percentile: fresh samples, rank by rank', () => {
    const draw = random(SEED);
    for (const n of [2, 3, 10, 99, 100, 101]) {
      // Value i of the sorted sample stands at percentile 100 · i / (n - 1); what lies between two is on the line between them.
      const sorted = list(n, () => 1000 * draw()).sort((a, b) => a - b);
      const shuffled = sorted.map((value) => [draw(), value]).sort(([a], [b]) => a - b).map(([, value]) => value); // biome-ignore format: one line
      for (const p of [0, 1, 10, 50, 90, 99, 99.9, 100, 100 * draw()]) {
        let below = 0;
        while (below + 1 < n - 1 && (100 * (below + 1)) / (n - 1) <= p) below++;
        const share = (p * (n - 1)) / 100 - below;
        const expected = (1 - share) * sorted[below] + share * sorted[below + 1];
        expect(percentile(shuffled, p), `percentile ${p} of ${n} values, SEED=${SEED}`).toBeCloseTo(expected, 6);
      }
    }
  });

  test('percentile: refuses what has no answer', () => {
    expectRefusal(() => percentile([], 50), 'a percentile of no values');
    for (const p of [-1, 100.5, Number.NaN]) expectRefusal(() => percentile([1, 2], p), `percentile ${p}`);
  });

  test('mean', () => {
    expect(mean([1, 2, 6]), 'the mean of 1, 2, 6').toBeCloseTo(3, 12);
    expect(mean([-4]), 'the mean of -4').toBe(-4);
    expectRefusal(() => mean([]), 'the mean of no values');
  });

  test('percentiles and bestAndMedian', () => {
    const values = list(101, (i) => (i * 37) % 101); // 0 to 100, in disorder
    expect(percentiles(values), 'of 0, 1, … 100').toEqual({ p50: 50, p90: 90, p99: 99 });
    expect(bestAndMedian([5, 3, 9]), 'three times').toEqual({ value: 3, median: 5 });
    expect(bestAndMedian([8, 3, 9, 4]), 'four times: the median lies between two').toEqual({ value: 3, median: 6 });
    expectRefusal(() => percentiles([]), 'percentiles of no values');
    expectRefusal(() => bestAndMedian([]), 'the best of no times');
  });

  test('a sample may be large', () => {
    const values = list(200_000, (i) => (i * 7919) % 200_000);
    expect(bestAndMedian(values), 'of 0, 1, … 199,999').toEqual({ value: 0, median: 99_999.5 });
  });
});

describe('7.2 The times of requests', () => {
  /** A request that was sent when it was due. */
  const times = (arrivedAt: number, tokensAt: number[]): RequestTimes =>
    requestTimes({ arrivedAt, sentAt: arrivedAt, tokensAt });

  test('by hand: due at 100, sent at 104, tokens at 130, 140, 170, 180', () => {
    const of = requestTimes({ arrivedAt: 100, sentAt: 104, tokensAt: [130, 140, 170, 180] });
    expect(of.firstToken, 'TTFT counts from when the request was due').toBeCloseTo(30, 9);
    expect(of.interToken, 'three gaps between four tokens').toEqual([10, 30, 10]);
    expect(of.perToken, 'TPOT: 50 ms for the three tokens after the first').toBeCloseTo(50 / 3, 9);
    expect(of.endToEnd, 'end to end counts from when the request was due').toBeCloseTo(80, 9);
    expect(of.sentLate, 'sent 4 ms late').toBeCloseTo(4, 9);
  });

  test('a request of one token has no next one', () => {
    const of = requestTimes({ arrivedAt: 50, sentAt: 51, tokensAt: [58] });
    expect(of.interToken, 'no gaps').toEqual([]);
    expect(of.perToken, 'TPOT of a request without a second token').toBeUndefined();
    expect([of.firstToken, of.endToEnd], 'TTFT and end to end').toEqual([8, 8]);
  });

  test('several tokens may come at once', () => {
    const of = times(0, [10, 10, 10, 40]);
    expect(of.interToken, 'tokens at 10, 10, 10, 40').toEqual([0, 0, 30]);
    expect(of.perToken, 'TPOT of them').toBeCloseTo(10, 9);
  });

  test('fresh timelines', () => {
    const draw = random(SEED);
    for (const n of [2, 3, 50]) {
      const arrivedAt = Math.floor(1e6 * draw());
      const late = Math.floor(100 * draw());
      const wait = 1 + Math.floor(100 * draw());
      const gaps = list(n - 1, () => Math.floor(50 * draw()));
      let now = arrivedAt + late + wait;
      const tokensAt = [now, ...gaps.map((gap) => (now += gap))];
      const of = requestTimes({ arrivedAt, sentAt: arrivedAt + late, tokensAt });
      const what = `of ${n} tokens, SEED=${SEED}`;
      const decoding = gaps.reduce((a, b) => a + b, 0);
      expect(of.sentLate, `sentLate ${what}`).toBe(late);
      expect(of.firstToken, `TTFT ${what}`).toBe(late + wait);
      expect(of.interToken, `gaps ${what}`).toEqual(gaps);
      expect(of.perToken, `TPOT ${what}`).toBeCloseTo(decoding / (n - 1), 6);
      expect(of.endToEnd, `end to end ${what}`).toBe(late + wait + decoding);
    }
  });

  test('serviceTimes: gaps of all requests together, other times request by request', () => {
    // 101 gaps altogether, 100, 101, … 200 in disorder, in requests of very different length.
    const gaps = list(101, (i) => 100 + ((i * 37) % 101));
    const timeline = (gaps: number[]) => {
      let now = 20_000;
      return times(0, [now, ...gaps.map((gap) => (now += gap))]);
    };
    const requests = [gaps.slice(2), gaps.slice(0, 1), gaps.slice(1, 2)].map(timeline);
    const of = serviceTimes(requests);
    expect(of.interToken, 'of gaps 100, 101, … 200, over all requests').toEqual({ p50: 150, p90: 190, p99: 199 });
    expect(of.firstToken, 'all first tokens after 20 s').toEqual({ p50: 20_000, p90: 20_000, p99: 20_000 });
    expect(of.sentLate, 'none was late').toEqual({ p50: 0, p90: 0, p99: 0 });
    // Two requests have one gap each, of 100 and of 137 ms; the third has the other 99.
    expect(of.endToEnd.p50, 'the median of 20,100, 20,137 and 34,913 ms').toBeCloseTo(20_137, 6);
    expect(of.perToken?.p50, 'the median of three means: 100, 137 and 150.6 ms').toBeCloseTo(137, 6);
  });

  test('serviceTimes: a request of one token has no TPOT, and adds none', () => {
    const [one, three] = [times(0, [4]), times(0, [4, 10, 16])];
    expect(serviceTimes([one, three, one]).perToken, 'one token, three tokens, one token').toEqual({
      p50: 6,
      p90: 6,
      p99: 6,
    });
    const none = serviceTimes([one, one]);
    expect(none.perToken, 'TPOT where no request has a second token').toBeUndefined();
    expect(none.interToken, 'gaps where no request has a second token').toBeUndefined();
    expect(none.firstToken, 'TTFT of them').toEqual({ p50: 4, p90: 4, p99: 4 });
    expectRefusal(() => serviceTimes([]), 'the times of no requests');
  });
});

/** A model with Qwen3-0.6B's sizes, and some others. */
const modelOf = (sizes: Partial<ModelConfig> = {}): ModelConfig => ({
  architecture: 'Qwen3ForCausalLM',
  vocabSize: 151936,
  hiddenSize: 1024,
  intermediateSize: 3072,
  numHiddenLayers: 28,
  numAttentionHeads: 16,
  numKeyValueHeads: 8,
  headDim: 128,
  maxPositionEmbeddings: 40960,
  rmsNormEps: 1e-6,
  ropeTheta: 1e6,
  tieWordEmbeddings: true,
  attentionBias: false,
  dtype: 'bfloat16',
  eosTokenIds: [],
  ...sizes,
});

/** Small sizes of which none equals another. */
function randomModel(seed: number): ModelConfig {
  const draw = random(seed);
  const up = (from: number) => from + Math.floor(draw() * 5);
  const numKeyValueHeads = up(2);
  return modelOf({
    vocabSize: up(1000),
    hiddenSize: up(60),
    intermediateSize: up(150),
    numHiddenLayers: up(10),
    numKeyValueHeads,
    numAttentionHeads: 3 * numKeyValueHeads,
    headDim: up(30),
  });
}

/** Counted the long way: every weight for every token, every key for every query. */
function counted(model: ModelConfig, contexts: readonly number[][], heads: number): number {
  const { hiddenSize: H, intermediateSize: I, numAttentionHeads: Hq, numKeyValueHeads: Hkv, headDim: D } = model;
  const layer = H * Hq * D + H * Hkv * D + H * Hkv * D + Hq * D * H + H * I + H * I + I * H;
  let operations = 2 * heads * H * model.vocabSize;
  for (const queries of contexts) {
    for (const keys of queries) {
      operations += model.numHiddenLayers * (2 * layer + Hq * keys * (2 * D + 2 * D));
    }
  }
  return operations;
}

describe('7.3 The roofline', () => {
  test('kvBytesPerToken: by hand, and on fresh sizes', () => {
    expect(new Costs(modelOf(), 1.19e9, 2).kvBytesPerToken, 'Qwen3-0.6B in bfloat16').toBe(114_688);
    expect(new Costs(modelOf(), 1.19e9, 4).kvBytesPerToken, 'Qwen3-0.6B in float32').toBe(229_376);
    expect(new Costs(modelOf(), 1.19e9, 2, 4).kvBytesPerToken, 'Qwen3-0.6B on each of 4 ranks').toBe(28_672);
    const model = randomModel(SEED);
    const { numHiddenLayers: layers, numKeyValueHeads: heads, headDim } = model;
    const expected = layers * (heads * headDim * 2 + heads * headDim * 2);
    expect(new Costs(model, 1, 2).kvBytesPerToken, `key and value in every layer, SEED=${SEED}`).toBe(expected);
  });

  test('decodeBytes: weights once, and the context of everybody', () => {
    const costs = new Costs(modelOf(), 1.19e9, 2);
    expect(costs.decodeBytes(1000), 'contexts of 1000 tokens altogether').toBe(1.19e9 + 114_688_000);
    expect(costs.decodeBytes(0), 'no context yet').toBe(1.19e9);
    const half = new Costs(modelOf(), 6e8, 2, 2);
    expect(half.decodeBytes(1000), 'on one of 2 ranks, which has 0.6 GB of weights').toBe(6e8 + 57_344_000);
  });

  test('prefillBytes: weights once, and what is put into the cache', () => {
    const costs = new Costs(modelOf(), 1.19e9, 2);
    expect(costs.prefillBytes(512), 'a prompt of 512 tokens').toBe(1.19e9 + 512 * 114_688);
  });

  test('decodeOps', () => {
    const costs = new Costs(modelOf(), 1.19e9, 2);
    expect(costs.decodeOps(1, 0), 'one token without context: two for each weight').toBe(1_191_968_768);
    expect(costs.decodeOps(1, 1) - costs.decodeOps(1, 0), 'what one more token of context adds').toBe(229_376);
    const model = randomModel(SEED);
    const contexts = [12, 7, 30];
    const expected = counted(model, contexts.map((n) => [n]), 3); // biome-ignore format: one line
    expect(new Costs(model, 1, 2).decodeOps(3, 49), `3 sequences with contexts of 12, 7, 30, SEED=${SEED}`).toBe(
      expected,
    );
    expect(new Costs(model, 1, 2, 2).decodeOps(3, 49), `the same on one of 2 ranks, SEED=${SEED}`).toBe(expected / 2);
  });

  test('prefillOps: query i looks at i keys', () => {
    const model = randomModel(SEED);
    const costs = new Costs(model, 1, 2);
    const triangle = (n: number) => list(n, (i) => i + 1);
    for (const lengths of [[1], [2], [9], [4, 1, 13]]) {
      const expected = counted(model, lengths.map(triangle), lengths.length);
      expect(costs.prefillOps(lengths), `prompts of ${lengths} tokens, SEED=${SEED}`).toBe(expected);
    }
    expect(costs.prefillOps([]), 'no prompt').toBe(0);
    expect(new Costs(model, 1, 2, 2).prefillOps([8]), 'on one of 2 ranks').toBe(costs.prefillOps([8]) / 2);
  });

  test('prefillOps: each prompt is a text of its own', () => {
    const costs = new Costs(randomModel(SEED), 1, 2);
    const apart = costs.prefillOps([6]) + costs.prefillOps([11]);
    expect(costs.prefillOps([6, 11]), 'two prompts together cost what they cost one by one').toBe(apart);
  });

  test('floorSeconds: the slower of the two decides', () => {
    const machine = { bandwidth: 100, matrixRate: 5000 };
    expect(floorSeconds(200, 10, machine), '200 bytes at 100 a second, hardly an operation').toBe(2);
    expect(floorSeconds(10, 20_000, machine), '20,000 operations at 5000 a second, hardly a byte').toBe(4);
    expect(floorSeconds(200, 10_000, machine), 'both take 2 s, at the same time').toBe(2);
  });

  test('ridge: operations a byte', () => {
    expect(ridge({ bandwidth: 3.02e12, matrixRate: 727e12 }), 'an H100').toBeCloseTo(240.7, 1);
    expect(ridge({ bandwidth: 100, matrixRate: 50 }), '50 operations and 100 bytes a second').toBe(0.5);
  });
});

describe('7.4 Does memory grow?', () => {
  const points = (ys: readonly number[], xs: readonly number[] = ys.map((_, i) => i)) =>
    ys.map((y, i) => ({ x: xs[i], y }));

  test('sliceMeans: equal slices', () => {
    expect(sliceMeans(points([1, 3, 10, 20, 5, 5]), 3), 'six points in three slices').toEqual([
      { x: 0.5, y: 2 },
      { x: 2.5, y: 15 },
      { x: 4.5, y: 5 },
    ]);
    expect(sliceMeans(points([4, 6]), 2), 'slices of one point').toEqual(points([4, 6]));
    expect(sliceMeans(points([4, 6]), 1), 'one slice').toEqual([{ x: 0.5, y: 5 }]);
  });

  test('sliceMeans: every point counts once, also where slices cannot be equal', () => {
    const seven = points([10, 20, 30, 40, 50, 60, 70]);
    expect(sliceMeans(seven, 3), 'seven points in three slices: 0-1, 2-3, 4-6').toEqual([
      { x: 0.5, y: 15 },
      { x: 2.5, y: 35 },
      { x: 5, y: 60 },
    ]);
    expect(sliceMeans(seven, 4), 'seven points in four slices: 0, 1-2, 3-4, 5-6').toEqual([
      { x: 0, y: 10 },
      { x: 1.5, y: 25 },
      { x: 3.5, y: 45 },
      { x: 5.5, y: 65 },
    ]);
  });

  test('trend: by hand, points (0, 1), (1, 2), (2, 2)', () => {
    // Means 1 and 5/3; Σ (x - x̄)² = 2, Σ (x - x̄)(y - ȳ) = 1; residuals -1/6, 1/3, -1/6, whose squares add up to 1/6.
    const { slope, margin } = trend(points([1, 2, 2]));
    expect(slope, 'the slope').toBeCloseTo(0.5, 9);
    expect(margin, 'the margin: 12.706 · √(1/6 / 1 / 2)').toBeCloseTo(12.706 * Math.sqrt(1 / 12), 3);
  });

  test('trend: a straight line has no margin', () => {
    const { slope, margin } = trend(points([5, 3, 1, -1, -3], [10, 11, 12, 13, 14]));
    expect(slope, 'of y = 25 - 2 x').toBeCloseTo(-2, 9);
    expect(margin, 'of points that lie on a line').toBeCloseTo(0, 9);
  });

  test("trend: as Python's scipy says", () => {
    const { slope, margin } = trend(points([10.1, 10.4, 9.9, 10.8, 11.2, 10.7, 11.9, 11.5]));
    expect(slope, 'the slope of eight points').toBeCloseTo(0.2392857, 6);
    expect(margin, 'the margin of eight points').toBeCloseTo(0.148162, 4);
  });

  test('trend: neither the order of the points nor the zeros of the axes matter', () => {
    const draw = random(SEED);
    const xs = list(9, () => 10 * draw());
    const ys = xs.map((x) => 3 * x + draw());
    const here = trend(points(ys, xs));
    const there = trend(points(ys.map((y) => y + 500), xs.map((x) => x - 40)).reverse()); // biome-ignore format: one line
    expect(there.slope, `the slope of the same points, moved, SEED=${SEED}`).toBeCloseTo(here.slope, 6);
    expect(there.margin, `the margin of the same points, moved, SEED=${SEED}`).toBeCloseTo(here.margin, 6);
    // Independently: normal equations for height and slope, and Student's 2.3646 for 7 degrees of freedom.
    const sum = (of: (x: number, y: number) => number) => xs.reduce((total, x, i) => total + of(x, ys[i]), 0);
    const [n, sx, sy] = [9, sum((x) => x), sum((_, y) => y)];
    const spread = n * sum((x) => x * x) - sx * sx;
    const slope = (n * sum((x, y) => x * y) - sx * sy) / spread;
    const height = (sy - slope * sx) / n;
    const variance = sum((x, y) => (y - height - slope * x) ** 2) / (n - 2);
    expect(here.slope, `the slope, SEED=${SEED}`).toBeCloseTo(slope, 6);
    expect(here.margin, `the margin, SEED=${SEED}`).toBeCloseTo(2.3646 * Math.sqrt((variance * n) / spread), 4);
  });

  test('trend: no slope where all points have the same x', () => {
    expectRefusal(() => trend(points([1, 2, 3], [4, 4, 4])), 'points straight above each other');
  });

  test('holdsZero', () => {
    expect(holdsZero({ slope: 0.6, margin: 0.1 }), '0.6 ± 0.1: from 0.5 to 0.7').toBe(false);
    expect(holdsZero({ slope: 0.1, margin: 0.6 }), '0.1 ± 0.6: from -0.5 to 0.7').toBe(true);
    expect(holdsZero({ slope: -3, margin: 1 }), '-3 ± 1: from -4 to -2').toBe(false);
    expect(holdsZero({ slope: -0.5, margin: 0.7 }), '-0.5 ± 0.7: from -1.2 to 0.2').toBe(true);
    expect(holdsZero({ slope: 0, margin: 0 }), '0 ± 0: it never moved').toBe(true);
  });
});

describe('7.5 Arrivals', () => {
  test('poissonArrivals: by hand', () => {
    const uniforms = [0.5, 0, 0.75, 1 - Math.exp(-3)];
    const times = poissonArrivals(2, 4, () => uniforms.shift() as number);
    // Gaps ln 2 / 2, 0, ln 4 / 2 and 3 / 2 seconds.
    const expected = [0.3466, 0.3466, 1.0397, 2.5397];
    expect(times, 'four arrivals').toHaveLength(4);
    expected.forEach((time, i) =>
      expect(times[i], `arrival ${i}, at 2 a second, from u = 0.5, 0, 0.75, 0.9502`).toBeCloseTo(time, 3),
    );
  });

  test('poissonArrivals: one draw for each gap', () => {
    for (const count of [0, 1, 7]) {
      let draws = 0;
      const times = poissonArrivals(5, count, () => [0.3, 0.9][draws++ % 2]);
      expect(times, `${count} arrivals`).toHaveLength(count);
      expect(draws, `draws for ${count} arrivals`).toBe(count);
    }
  });

  test('poissonArrivals: gaps as an exponential distribution has them', () => {
    const rate = 8;
    const times = poissonArrivals(rate, 20_000, random(SEED));
    const gaps = times.map((time, i) => time - (i > 0 ? times[i - 1] : 0));
    expect(Math.min(...gaps), 'the smallest gap').toBeGreaterThanOrEqual(0);
    expect(times[19_999] / 20_000, `the mean gap, 1/8 s, SEED=${SEED}`).toBeCloseTo(1 / rate, 2);
    // Of exponential gaps, e⁻¹ = 0.368 are longer than the mean and e⁻³ = 0.05 longer than three times the mean.
    const longer = (times: number) => gaps.filter((gap) => gap > times / rate).length / gaps.length;
    expect(longer(1), `gaps longer than the mean, SEED=${SEED}`).toBeCloseTo(0.368, 1);
    expect(longer(3), `gaps longer than three times the mean, SEED=${SEED}`).toBeGreaterThan(0.035);
    expect(longer(3), `gaps longer than three times the mean, SEED=${SEED}`).toBeLessThan(0.065);
  });

  test('poissonArrivals: refuses a rate that is none', () => {
    for (const rate of [0, -2, Number.NaN, Infinity]) {
      expectRefusal(() => poissonArrivals(rate, 3, () => 0.5), `a rate of ${rate}`);
    }
  });

  test('meanNumber: by hand', () => {
    expect(meanNumber([2000, 2000, 2000], 6000), 'three stays of 2 s in 6 s').toBeCloseTo(1, 9);
    expect(meanNumber([500], 2000), 'half a second of two').toBeCloseTo(0.25, 9);
    expect(meanNumber([], 1000), 'nobody came').toBe(0);
  });

  test('meanNumber: the same as counting at every moment', () => {
    const draw = random(SEED);
    const stays = list(12, () => [Math.floor(60 * draw()), 1 + Math.floor(40 * draw())]);
    let present = 0;
    for (let t = 0; t < 100; t++) present += stays.filter(([from, length]) => from <= t && t < from + length).length;
    const lengths = stays.map(([, length]) => length);
    expect(meanNumber(lengths, 100), `12 stays within 100 ms, SEED=${SEED}`).toBeCloseTo(present / 100, 9);
  });
});
