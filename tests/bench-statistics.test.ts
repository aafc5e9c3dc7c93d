// The arithmetic of the benchmarks, against formulas written down independently and figures from Python (numpy, scipy, random).
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { meanNumber, poissonArrivals } from '#nano/bench/arrivals';
import { Costs, floorSeconds, ridge } from '#nano/bench/costs';
import { PythonRandom } from '#nano/bench/python-random';
import { requestTimes, serviceTimes } from '#nano/bench/request-times';
import { SHAPES } from '#nano/bench/shapes';
import {
  bestAndMedian,
  holdsZero,
  mean,
  percentile,
  percentiles,
  sliceMeans,
  studentT,
  trend,
} from '#nano/bench/statistics';
import { parseModelConfig } from '#nano/models/model-config';

const sample = fc.array(fc.double({ min: -1e6, max: 1e6, noNaN: true }), { minLength: 1, maxLength: 50 });

describe('percentile', () => {
  test('as numpy has it', () => {
    const values = [3, 1, 4, 1, 5, 9, 2, 6];
    const expected = { 0: 1, 10: 1, 25: 1.75, 50: 3.5, 90: 6.9, 99: 8.79, 100: 9 };
    for (const [p, value] of Object.entries(expected)) expect(percentile(values, Number(p)), p).toBeCloseTo(value, 12);
    expect(values).toEqual([3, 1, 4, 1, 5, 9, 2, 6]);
    expect(percentile([7], 99)).toBe(7);
    expect(percentile([10, 9, 100], 50)).toBe(10);
  });

  test('is a value at whole ranks, ascends with p, and does not depend on the order', () => {
    fc.assert(
      fc.property(sample, fc.double({ min: 0, max: 100, noNaN: true }), (values, p) => {
        const sorted = [...values].sort((a, b) => a - b);
        const n = values.length;
        if (n > 1)
          for (let i = 0; i < n; i++) expect(percentile(values, (100 * i) / (n - 1))).toBeCloseTo(sorted[i], 6);
        const value = percentile(values, p);
        expect(value).toBe(percentile(sorted.reverse(), p));
        expect(value).toBeGreaterThanOrEqual(percentile(values, p / 2));
        expect(values.filter((v) => v < value).length).toBeLessThanOrEqual(Math.ceil((p / 100) * (n - 1)));
      }),
    );
  });

  test('refuses what has no answer', () => {
    expect(() => percentile([], 50)).toThrow(new RangeError('An empty sample has no percentiles.'));
    for (const p of [-1, 100.1, Number.NaN]) expect(() => percentile([1], p)).toThrow(`from 0 to 100, not ${p}`);
    for (const of of [mean, percentiles, bestAndMedian]) expect(() => of([])).toThrow(RangeError);
  });
});

test('summaries', () => {
  const values = Array.from({ length: 101 }, (_, i) => (i * 37) % 101);
  expect(percentiles(values)).toEqual({ p50: 50, p90: 90, p99: 99 });
  expect(bestAndMedian([4, 2, 9])).toEqual({ value: 2, median: 4 });
  expect(bestAndMedian([4, 2, 9, 5])).toEqual({ value: 2, median: 4.5 });
  expect(mean([1, 2, 6])).toBe(3);
});

describe('trend', () => {
  const points = (x: number[], y: number[]) => x.map((x, i) => ({ x, y: y[i] }));

  test("as scipy's linregress has it", () => {
    const y = [10.1, 10.4, 9.9, 10.8, 11.2, 10.7, 11.9, 11.5];
    const { slope, margin } = trend(points([0, 1, 2, 3, 4, 5, 6, 7], y));
    expect(slope).toBeCloseTo(0.23928571428571427, 12);
    expect(margin).toBeCloseTo(0.14816214358209281, 5);
    const few = trend(points([0, 1, 2], [1, 2, 2]));
    expect(few.slope).toBeCloseTo(0.5, 12);
    expect(few.margin).toBeCloseTo(3.6679653624044795, 3);
    expect([holdsZero({ slope, margin }), holdsZero(few)]).toEqual([false, true]);
  });

  test("Student's t, also beyond its table", () => {
    const scipy = { 1: 12.7062, 2: 4.30265, 5: 2.57058, 10: 2.22814, 11: 2.20099, 12: 2.17881, 20: 2.08596 };
    for (const [n, t] of Object.entries({ ...scipy, 30: 2.04227, 100: 1.98397, 1000: 1.96234 })) {
      expect(Math.abs(studentT(Number(n)) - t), `${n} degrees of freedom`).toBeLessThan(3e-4);
    }
  });

  test('the interval of noise about a line holds its slope about 95 times of 100', () => {
    const random = new PythonRandom(5);
    // Twelve uniform numbers added up are normal enough.
    const normal = () => Array.from({ length: 12 }, () => random.random()).reduce((a, b) => a + b) - 6;
    for (const n of [5, 10, 40]) {
      let held = 0;
      for (let i = 0; i < 2000; i++) {
        const { slope, margin } = trend(Array.from({ length: n }, (_, x) => ({ x, y: 3 * x + normal() })));
        if (Math.abs(slope - 3) <= margin) held++;
      }
      expect(held / 2000, `${n} points`).toBeGreaterThan(0.935);
      expect(held / 2000, `${n} points`).toBeLessThan(0.965);
    }
  });

  test('does not change with the zero of either axis, and scales with their units', () => {
    const axis = fc.array(fc.integer({ min: -1000, max: 1000 }), { minLength: 3, maxLength: 20 });
    fc.assert(
      fc.property(axis, fc.integer({ min: -1000, max: 1000 }), fc.integer({ min: 1, max: 9 }), (ys, shift, scale) => {
        const line = trend(ys.map((y, x) => ({ x, y })));
        const moved = trend(ys.map((y, x) => ({ x: 2 * (x + shift), y: scale * (y + shift) })));
        expect(moved.slope).toBeCloseTo((line.slope * scale) / 2, 6);
        expect(moved.margin).toBeCloseTo((line.margin * scale) / 2, 6);
        expect(line.margin).toBeGreaterThanOrEqual(0);
      }),
    );
  });

  test('flat lines hold zero, to the bit', () => {
    for (const y of [0, 0.1, 8746.451293945312]) {
      expect(holdsZero(trend(Array.from({ length: 10 }, (_, x) => ({ x: x / 7, y })))), `${y}`).toBe(true);
    }
    expect(holdsZero({ slope: -2, margin: 1 })).toBe(false);
    expect(holdsZero({ slope: -2, margin: 2 })).toBe(true);
  });

  test('refuses too few points, and those with one x', () => {
    expect(() => trend(points([0, 1], [0, 1]))).toThrow(RangeError);
    expect(() => trend(points([2, 2, 2], [0, 1, 2]))).toThrow('All points have x = 2');
  });

  test('slices are as long as each other, to one point, and keep the mean', () => {
    const series = fc.array(fc.integer({ min: 0, max: 99 }), { minLength: 10, maxLength: 95 });
    fc.assert(
      fc.property(series, fc.integer({ min: 1, max: 10 }), (ys, count) => {
        const slices = sliceMeans(
          ys.map((y, x) => ({ x, y })),
          count,
        );
        expect(slices).toHaveLength(count);
        if (ys.length % count !== 0) return;
        expect(mean(slices.map(({ y }) => y))).toBeCloseTo(mean(ys), 9);
      }),
    );
    const seven = [1, 2, 3, 4, 5, 6, 7].map((v) => ({ x: v, y: 10 * v }));
    expect(sliceMeans(seven, 3)).toEqual([{ x: 1.5, y: 15 }, { x: 3.5, y: 35 }, { x: 6, y: 60 }]); // biome-ignore format: one line
    expect(() => sliceMeans(seven, 8)).toThrow(RangeError);
  });
});

describe('times of requests', () => {
  const timesOf = (arrivedAt: number, tokensAt: number[]) => requestTimes({ arrivedAt, sentAt: arrivedAt, tokensAt });

  test('from timestamps', () => {
    const times = requestTimes({ arrivedAt: 100, sentAt: 104, tokensAt: [130, 140, 170, 180] });
    expect(times).toEqual({ sentLate: 4, firstToken: 30, interToken: [10, 30, 10], perToken: 50 / 3, endToEnd: 80 });
    const one = timesOf(5, [5]);
    expect(one).toEqual({ sentLate: 0, firstToken: 0, interToken: [], perToken: undefined, endToEnd: 0 });
  });

  test('end to end is the first token and all gaps', () => {
    const gaps = fc.array(fc.nat(1000), { minLength: 1, maxLength: 30 });
    fc.assert(
      fc.property(fc.nat(1000), gaps, (arrivedAt, gaps) => {
        let now = arrivedAt;
        const times = timesOf(
          arrivedAt,
          gaps.map((gap) => (now += gap)),
        );
        expect(times.interToken).toEqual(gaps.slice(1));
        expect(times.firstToken + (times.perToken ?? 0) * (gaps.length - 1)).toBeCloseTo(times.endToEnd, 6);
      }),
    );
  });

  test('of many requests: gaps count one by one, means request by request', () => {
    const slow = timesOf(0, [10, 110]);
    const steady = Array.from({ length: 100 }, (_, i) => 20 + i);
    const single = timesOf(0, [30]);
    const { firstToken, interToken, perToken, endToEnd } = serviceTimes([slow, timesOf(0, steady), single]);
    expect(firstToken.p50).toBe(20);
    expect(interToken).toMatchObject({ p50: 1, p90: 1 });
    expect(perToken?.p50).toBe(50.5);
    expect(endToEnd.p50).toBe(110);
    expect(serviceTimes([single])).toMatchObject({ interToken: undefined, perToken: undefined });
  });

  test('refuses what cannot be', () => {
    expect(() => timesOf(0, [])).toThrow('without a token');
    expect(() => timesOf(10, [9])).toThrow('What came at 9 ms cannot follow what came at 10 ms.');
    expect(() => timesOf(0, [5, 4])).toThrow('at 4 ms cannot follow');
    expect(() => requestTimes({ arrivedAt: 0, sentAt: -1, tokensAt: [1] })).toThrow('at -1 ms cannot follow');
    expect(() => requestTimes({ arrivedAt: 0, sentAt: Number.NaN, tokensAt: [1] })).toThrow(RangeError);
    expect(() => serviceTimes([])).toThrow(RangeError);
  });
});

describe('arrivals', () => {
  test("random.random() is Python's, also between randints", () => {
    const first = new PythonRandom(0);
    expect([first.random(), first.random(), first.random()]).toEqual([
      0.8444218515250481, 0.7579544029403025, 0.420571580830845,
    ]);
    const mixed = new PythonRandom(7);
    expect([mixed.random(), mixed.random(), mixed.randint(0, 99), mixed.random()]).toEqual([
      0.32383276483316237, 0.15084917392450192, 83, 0.04828642362681235,
    ]);
  });

  test('gaps are the quantiles of the exponential distribution', () => {
    const uniforms = [0, 0.5, 1 - Math.exp(-1), 0.999999];
    const times = poissonArrivals(4, 4, () => uniforms.shift() as number);
    const gaps = [0, Math.LN2 / 4, 0.25, Math.log(1e6) / 4];
    let now = 0;
    times.forEach((time, i) => expect(time, `arrival ${i}`).toBeCloseTo((now += gaps[i]), 9));
    expect(poissonArrivals(4, 0, Math.random)).toEqual([]);
    for (const rate of [0, -1, Number.NaN, Infinity])
      expect(() => poissonArrivals(rate, 1, Math.random)).toThrow(`${rate}`);
  });

  test('a second holds as many as a Poisson variable: mean and variance are the rate', () => {
    const random = new PythonRandom(11);
    const [rate, seconds] = [5, 4000];
    const times = poissonArrivals(rate, rate * seconds * 1.1, () => random.random());
    const counts = new Array(seconds).fill(0);
    for (const time of times) if (time < seconds) counts[Math.floor(time)]++;
    const average = mean(counts);
    const variance = mean(counts.map((n) => (n - average) ** 2));
    expect(average).toBeGreaterThan(4.85);
    expect(average).toBeLessThan(5.15);
    expect(variance / average).toBeGreaterThan(0.9);
    expect(variance / average).toBeLessThan(1.1);
    expect(counts.filter((n) => n === 0).length / seconds).toBeCloseTo(Math.exp(-5), 2);
  });

  test("Little's law: counted moment by moment it is the same", () => {
    const stay = fc.tuple(fc.nat(80), fc.integer({ min: 1, max: 20 }));
    fc.assert(
      fc.property(fc.array(stay, { maxLength: 20 }), (stays) => {
        const present = Array.from({ length: 100 }, (_, t) =>
          stays.filter(([from, for_]) => from <= t && t < from + for_),
        );
        const counted = mean(present.map((there) => there.length));
        expect(
          meanNumber(
            stays.map(([, length]) => length),
            100,
          ),
        ).toBeCloseTo(counted, 9);
      }),
    );
  });
});

describe('costs', () => {
  const model = parseModelConfig(JSON.stringify(SHAPES.tiny), 'config.json');

  test('as counted token by token and pair by pair', () => {
    const costs = new Costs(model, 1e6, 2);
    // tiny: 2 layers; hidden 64, 4 and 2 heads of 64, MLP 128, vocabulary 10240.
    const layer = 64 * 256 + 2 * 64 * 128 + 256 * 64 + 3 * 64 * 128;
    const [all, head] = [2 * layer, 64 * 10240];
    const pair = 2 * 2 * 4 * 64 * 2; // layers, (q · k and weight · v), heads, numbers, multiply and add
    expect(costs.kvBytesPerToken).toBe(2 * 2 * 2 * 64 * 2);
    let prefill = 0;
    for (const n of [3, 7]) {
      for (let i = 0; i < n; i++) prefill += 2 * all + (i + 1) * pair;
      prefill += 2 * head;
    }
    expect(costs.prefillOps([3, 7])).toBe(prefill);
    expect(costs.prefillOps([])).toBe(0);
    expect(costs.decodeOps(2, 30)).toBe(2 * 2 * (all + head) + 30 * pair);
    expect(costs.decodeBytes(30)).toBe(1e6 + 30 * costs.kvBytesPerToken);
    expect(costs.prefillBytes(10)).toBe(1e6 + 10 * costs.kvBytesPerToken);
    // A prompt of one token is a decode step with one token of context.
    expect(costs.prefillOps([1])).toBe(costs.decodeOps(1, 1));
  });

  test('ranks share everything but the weights, whose share is given', () => {
    const [one, two] = [new Costs(model, 1e6, 2), new Costs(model, 1e6, 2, 2)];
    expect(two.kvBytesPerToken).toBe(one.kvBytesPerToken / 2);
    expect(two.prefillOps([5])).toBe(one.prefillOps([5]) / 2);
    expect(two.decodeOps(3, 50)).toBe(one.decodeOps(3, 50) / 2);
    expect(two.decodeBytes(0)).toBe(1e6);
  });

  test('the roofline bends at the ridge', () => {
    const machine = { bandwidth: 100, matrixRate: 5000 };
    expect(ridge(machine)).toBe(50);
    expect(floorSeconds(200, 200 * 49, machine)).toBe(2);
    expect(floorSeconds(200, 200 * 50, machine)).toBe(2);
    expect(floorSeconds(200, 200 * 100, machine)).toBe(4);
  });
});
