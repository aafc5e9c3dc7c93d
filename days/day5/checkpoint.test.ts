import { describe, expect, test } from 'vitest';
import { filterTokens, greedy, gumbelMax, sample } from '#nano/backends/reference/sample';
import { type EngineOptions, LLMEngine, type Prompt } from '#nano/engine/llm-engine';
import type { TokenLogprobs } from '#nano/engine/logprobs';
import type { StepResult } from '#nano/engine/model-runner';
import type { RequestOutput, RequestUpdate } from '#nano/engine/outputs';
import type { Batch } from '#nano/engine/scheduler';
import { Sequence } from '#nano/engine/sequence';
import { StopChecker } from '#nano/engine/stop-checker';
import { InvalidRequestError } from '#nano/errors';
import { Sampler, type SampleValues } from '#nano/layers/sampler';
import { type SamplingOptions, SamplingParams } from '#nano/sampling-params';
import type { Ops } from '#nano/tensor/ops';
import { Tensor } from '#nano/tensor/tensor';
import { gumbelNoise } from '#nano/utils/philox';
import type { Tokenizer } from '#nano/utils/tokenizer';

// Other inputs in each run; messages name the seed, and SEED=… repeats a run.
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000);
const FROM_SEED = `random numbers of SEED=${SEED}`;

/** Uniform numbers in [0, 1) (mulberry32); the same ones for the same test in a run. */
function randomNumbers(salt: number): () => number {
  let state = SEED + salt * 0x9e3779b9;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let z = Math.imul(state ^ (state >>> 15), state | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The definition: e^(logit / temperature), divided by the sum of all. */
function softmax(logits: ArrayLike<number>, temperature: number): number[] {
  const powers = Array.from(logits, (logit) => Math.exp(logit / temperature));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

const floats = (...values: number[]) => Float32Array.from(values);
const noNoise = () => 0;

describe('5.1 Greedy and Gumbel-max', () => {
  test('greedy takes the largest logit', () => {
    expect(greedy(floats(1, 5, 3)), 'greedy([1, 5, 3])').toBe(1);
    expect(greedy(floats(7, 5, 3)), 'greedy([7, 5, 3]): the first can be the largest').toBe(0);
    expect(greedy(floats(1, 2, 3)), 'greedy([1, 2, 3]): and so can the last').toBe(2);
    expect(greedy(floats(-3, -1, -2)), 'greedy([-3, -1, -2]): logits may be negative').toBe(1);
    expect(greedy(floats(4)), 'greedy([4]): a vocabulary of one').toBe(0);
  });

  test('among equals, greedy takes the lowest id', () => {
    expect(greedy(floats(1, 5, 5, 2, 5)), 'greedy([1, 5, 5, 2, 5])').toBe(1);
    expect(greedy(floats(0, 0, 0)), 'greedy([0, 0, 0])').toBe(0);
  });

  test('gumbelMax compares logit / temperature + noise', () => {
    const noise = (id: number) => [0, 3][id];
    const cases: [temperature: number, expected: number, sums: string][] = [
      [0.5, 0, '2 / 0.5 + 0 = 4 and 0 / 0.5 + 3 = 3'],
      [1, 1, '2 / 1 + 0 = 2 and 0 / 1 + 3 = 3'],
      [2, 1, '2 / 2 + 0 = 1 and 0 / 2 + 3 = 3'],
    ];
    for (const [temperature, expected, sums] of cases) {
      const drawn = gumbelMax(floats(2, 0), temperature, [0, 1], noise);
      expect(drawn, `logits [2, 0], noise [0, 3], temperature ${temperature}: ${sums}`).toBe(expected);
    }
    expect(gumbelMax(floats(9, -50, -40), 1, [1, 2], noNoise), 'scores may all be negative').toBe(2);
    expect(gumbelMax(floats(1, 4, 4, 4), 1, [0, 2, 3], noNoise), 'the lowest id among equal scores').toBe(2);
  });

  test('gumbelMax draws only among the allowed ids, and asks for noise by id', () => {
    expect(gumbelMax(floats(5, 1, 4, 3), 1, [1, 3], noNoise), 'logits [5, 1, 4, 3], allowed [1, 3]').toBe(3);
    expect(gumbelMax(floats(5, 1, 4, 3), 1, [1], noNoise), 'only one allowed').toBe(1);
    const asked: number[] = [];
    const noise = (id: number) => {
      asked.push(id);
      return id === 7 ? 100 : 0;
    };
    expect(gumbelMax(floats(0, 0, 0, 0, 0, 0, 0, 0), 1, [2, 5, 7], noise), 'token 7 has by far the most noise').toBe(7);
    expect(
      asked.sort((a, b) => a - b),
      'the ids whose noise was asked for, once each',
    ).toEqual([2, 5, 7]);
  });

  test('10,000 draws are spread as the softmax says', () => {
    const random = randomNumbers(1);
    for (const temperature of [0.5, 1, 2]) {
      const logits = Float32Array.from({ length: 8 }, () => 3 * random());
      const counts = new Array<number>(8).fill(0);
      const total = 10_000;
      for (let i = 0; i < total; i++) {
        counts[gumbelMax(logits, temperature, [...counts.keys()], () => -Math.log(-Math.log(random() + 2 ** -33)))]++;
      }
      const expected = softmax(logits, temperature).map((p) => p * total);
      // Pearson's statistic: about 7 for a right draw, and above 60 less than once in a billion runs.
      const statistic = counts.reduce((sum, count, i) => sum + (count - expected[i]) ** 2 / expected[i], 0);
      const drawn = `drawn at temperature ${temperature}: ${counts}; expected about ${expected.map(Math.round)}`;
      expect(statistic, `distance from the softmax, which must be below 60 (${drawn}; ${FROM_SEED})`).toBeLessThan(60);
    }
  });

  test('a row draws the same alone and in a batch: its noise comes from seed, position and token', () => {
    const random = randomNumbers(2);
    const vocab = 50;
    const rows = Array.from({ length: 6 }, () => Float32Array.from({ length: vocab }, () => 4 * random()));
    const draws = rows.map((_, b) => ({
      temperature: b === 2 ? 0 : 0.5 + random(),
      seed: [Math.floor(2 ** 31 * random()), b],
      position: Math.floor(100 * random()),
    }));
    const batch = sampleRows(rows, draws);
    rows.forEach((row, b) => {
      const { temperature, seed, position } = draws[b];
      const scores = Array.from(row, (logit, id) =>
        temperature === 0 ? logit : logit / Math.fround(temperature) + gumbelNoise(seed[0], seed[1], position, id),
      );
      const expected = scores.indexOf(Math.max(...scores));
      expect(batch[b], `row ${b} of a batch, temperature ${temperature.toFixed(2)} (${FROM_SEED})`).toBe(expected);
      expect(sampleRows([row], [draws[b]]), `row ${b} alone (${FROM_SEED})`).toEqual([expected]);
    });
  });
});

/** The whole `sample` operation on rows of logits, without filters. */
function sampleRows(
  rows: readonly Float32Array[],
  draws: readonly { temperature: number; seed: number[]; position: number }[],
): number[] {
  const tensor = (array: Float32Array | Int32Array, ...shape: number[]) =>
    new Tensor({ alive: true, array }, shape, array instanceof Int32Array ? 'int32' : 'float32');
  const logits = floats(...rows.flatMap((row) => [...row]));
  const n = rows.length;
  const out = new Int32Array(n);
  sample(tensor(out, n), tensor(logits, n, rows[0].length), {
    temperature: tensor(floats(...draws.map((d) => d.temperature)), n),
    topK: tensor(new Int32Array(n), n),
    topP: tensor(new Float32Array(n).fill(1), n),
    minP: tensor(new Float32Array(n), n),
    seed: tensor(Int32Array.from(draws.flatMap((d) => d.seed)), n, 2),
    position: tensor(
      Int32Array.from(draws, (d) => d.position),
      n,
    ),
  });
  return [...out];
}

interface Filters {
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
}

const filtered = (logits: Float32Array, { temperature = 1, topK = 0, topP = 1, minP = 0 }: Filters) =>
  filterTokens(logits, temperature, topK, topP, minP);

/** The filters as their definitions have them, over probabilities and one at a time. */
function defined(logits: Float32Array, { temperature = 1, topK = 0, topP = 1, minP = 0 }: Filters): number[] {
  const p = softmax(logits, temperature);
  let kept = [...p.keys()].sort((a, b) => logits[b] - logits[a] || a - b);
  kept = kept.filter((id) => p[id] >= minP * p[kept[0]]);
  if (topK > 0) kept.splice(topK);
  if (topP < 1) {
    const mass = (ids: readonly number[]) => ids.reduce((sum, id) => sum + p[id], 0);
    let size = 1;
    while (size < kept.length && mass(kept.slice(0, size)) < topP * mass(kept)) size++;
    kept.splice(size);
  }
  return kept.sort((a, b) => a - b);
}

describe('5.2 The filters', () => {
  // The table of the lesson: the logits of these probabilities.
  const TABLE = floats(...[0.15, 0.4, 0.06, 0.25, 0.04, 0.1].map((p) => Math.log(p)));
  const table = (filters: Filters, expected: number[], why: string) =>
    expect(filtered(TABLE, filters), `p = .15 .4 .06 .25 .04 .1, ${JSON.stringify(filters)}: ${why}`).toEqual(expected);

  test('top-k keeps the k likeliest, and gives their ids ascending', () => {
    table({ topK: 1 }, [1], 'the likeliest');
    table({ topK: 3 }, [0, 1, 3], '.4, .25 and .15');
    table({ topK: 5 }, [0, 1, 2, 3, 5], 'all but .04');
    table({ topK: 6 }, [0, 1, 2, 3, 4, 5], 'as many as there are');
    table({ topK: 1000 }, [0, 1, 2, 3, 4, 5], 'more than there are');
    const many = Float32Array.from({ length: 12 }, (_, id) => id);
    expect(filtered(many, { topK: 4 }), 'ids in the order of numbers, not of text').toEqual([8, 9, 10, 11]);
  });

  test('top-k with equals at the edge: exactly k, the lower ids', () => {
    expect(filtered(floats(1, 2, 1, 2, 1), { topK: 3 }), 'logits [1, 2, 1, 2, 1], topK 3').toEqual([0, 1, 3]);
    expect(filtered(floats(0, 0, 0, 0), { topK: 2 }), 'logits [0, 0, 0, 0], topK 2').toEqual([0, 1]);
  });

  test('top-p keeps the token that crosses the threshold, and nothing after it', () => {
    table({ topP: 0.3 }, [1], '.4 is enough');
    table({ topP: 0.5 }, [1, 3], '.4 is too little, .4 + .25 is enough');
    table({ topP: 0.7 }, [0, 1, 3], '.65 is too little, .8 is enough');
    table({ topP: 0.93 }, [0, 1, 2, 3, 5], '.9 is too little, .96 is enough');
    table({ topP: 0.98 }, [0, 1, 2, 3, 4, 5], '.96 is too little');
    table({ topP: 1e-6 }, [1], 'never none');
    expect(filtered(floats(0, 0, 0, 0), { topP: 0.5 }), 'four equals, topP 0.5: reached exactly by two').toEqual([
      0, 1,
    ]);
    expect(filtered(floats(0, 0, 0, 0), { topP: 0.51 }), 'four equals, topP 0.51: a third').toEqual([0, 1, 2]);
  });

  test('min-p keeps what is not too far below the likeliest', () => {
    table({ minP: 0.3 }, [0, 1, 3], 'at least .3 · .4 = .12');
    table({ minP: 0.2 }, [0, 1, 3, 5], 'at least .08');
    table({ minP: 0.7 }, [1], 'at least .28: the likeliest always stays');
    expect(filtered(floats(2, 3, 3, 1), { minP: 1 }), 'logits [2, 3, 3, 1], minP 1: the likeliest').toEqual([1, 2]);
  });

  test('the temperature comes first', () => {
    const expectKept = (filters: Filters, expected: number[], why: string) =>
      expect(filtered(floats(0, -2), filters), `logits [0, -2], ${JSON.stringify(filters)}: ${why}`).toEqual(expected);
    expectKept({ minP: 0.3 }, [0], 'e⁻² = .14 of the likeliest is too little');
    expectKept({ minP: 0.3, temperature: 2 }, [0, 1], 'e⁻¹ = .37 is enough');
    expectKept({ topP: 0.8 }, [0], 'p = .88 is enough');
    expectKept({ topP: 0.8, temperature: 2 }, [0, 1], 'p = .73 is too little');
  });

  test('each filter works on what the one before it left: min-p, top-k, top-p', () => {
    const two = 'of the .8 that is left .75 is .6, and .4 + .25 reach it';
    table({ minP: 0.3, topP: 0.75 }, [1, 3], two);
    table({ topK: 3, topP: 0.75 }, [1, 3], two);
    table({ minP: 0.3, topK: 2 }, [1, 3], 'min-p leaves three, top-k two of them');
    table({ minP: 0.5, topK: 4 }, [1, 3], 'min-p leaves two');
  });

  test('large logits do not overflow, and the logits stay as they are', () => {
    expect(filtered(floats(1000, 999, 990), { topP: 0.9 }), 'logits [1000, 999, 990], topP 0.9').toEqual([0, 1]);
    expect(filtered(floats(-1000, -999, -990), { minP: 0.1 }), 'logits [-1000, -999, -990], minP 0.1').toEqual([2]);
    const logits = floats(1, 3, 2);
    filtered(logits, { topK: 2, topP: 0.9, minP: 0.1 });
    expect(logits, 'the logits afterwards').toEqual(floats(1, 3, 2));
  });

  test('any logits, any parameters', () => {
    const random = randomNumbers(3);
    const pick = (values: number[]) => values[Math.floor(values.length * random())];
    const between = (low: number, high: number) => low + Math.round(100 * (high - low) * random()) / 100;
    for (let i = 0; i < 1000; i++) {
      // Often whole numbers, so that there are equals at the edges.
      const round = random() < 0.5 ? Math.round : (logit: number) => logit;
      const logits = Array.from({ length: 1 + Math.floor(10 * random()) }, () => round(between(-5, 5)));
      const filters = {
        temperature: pick([0.3, 0.7, 1, 1.9]),
        topK: pick([0, 1, 2, 5, 40]),
        // Never a simple fraction, which equals could reach exactly but for rounding.
        topP: pick([1, Number((between(0.05, 0.98) + 0.0037).toFixed(4))]),
        minP: pick([0, between(0.01, 0.6)]),
      };
      const what = `logits [${logits.join(', ')}], ${JSON.stringify(filters)} (${FROM_SEED})`;
      expect(filtered(floats(...logits), filters), what).toEqual(defined(floats(...logits), filters));
    }
  });
});

describe("5.3 The sampler's parameters", () => {
  /** What `fill` makes of the sequences, in `rows` rows that held something else before. */
  function fill(seqs: readonly Sequence[], rows = seqs.length, engineSeed = 0): SampleValues {
    const sampler = new Sampler({} as Ops, engineSeed);
    const values: SampleValues = sampler.argsBy(rows, ([count, words = 1], dtype) =>
      dtype === 'int32' ? new Int32Array(count * words).fill(-9) : new Float32Array(count).fill(0.625),
    );
    sampler.fill(values, seqs);
    return values;
  }

  /** A sequence that has drawn `output` tokens, and is request `index` of its engine. */
  function sequence(options: SamplingOptions, { output = 0, prompt = 3, index = 0 } = {}): Sequence {
    const seq = new Sequence(new Array(prompt).fill(5), new SamplingParams(options), 4, index);
    for (let i = 0; i < output; i++) seq.appendToken(6);
    return seq;
  }

  /** The two words of row b's seed, as numbers from 0 to 2³² - 1. */
  const seedOf = ({ seed }: SampleValues, b = 0) => [seed[2 * b] >>> 0, seed[2 * b + 1] >>> 0];

  test('each row has the parameters of its sequence', () => {
    const values = fill([
      sequence({ temperature: 0.5, topK: 7, topP: 0.75, minP: 0.25 }),
      sequence({ temperature: 0 }),
      sequence({ temperature: 2, topK: 1, topP: 0.5 }),
    ]);
    expect([...values.temperature], 'temperature').toEqual([0.5, 0, 2]);
    expect([...values.topK], 'topK').toEqual([7, 0, 1]);
    expect([...values.topP], 'topP').toEqual([0.75, 1, 0.5]);
    expect([...values.minP], 'minP').toEqual([0.25, 0, 0]);
  });

  test('a topK beyond an int32 is cut, not wrapped', () => {
    const { topK } = fill([
      sequence({ topK: 2 ** 31 - 1 }),
      sequence({ topK: 2 ** 31 }),
      sequence({ topK: 2 ** 32 }),
      sequence({ topK: Number.MAX_SAFE_INTEGER }),
    ]);
    expect([...topK], 'topK of 2³¹ - 1, 2³¹, 2³² and 2⁵³ - 1').toEqual(new Array(4).fill(2 ** 31 - 1));
  });

  test('the position is the index of the token to be drawn, within the output', () => {
    const { position } = fill([sequence({}), sequence({}, { output: 1 }), sequence({}, { output: 41 })]);
    expect([...position], 'position after 0, 1 and 41 tokens of output').toEqual([0, 1, 41]);
    const long = fill([sequence({}, { prompt: 90, output: 2 })]);
    expect([...long.position], 'position after 2 tokens of output, with a prompt of 90 tokens').toEqual([2]);
  });

  test('a token that is on its way counts, and preemption changes nothing', () => {
    const seq = sequence({}, { output: 2 });
    seq.appendPlaceholder();
    expect([...fill([seq]).position], 'position after 2 tokens and one on its way').toEqual([3]);
    const back = sequence({ seed: 9 }, { output: 4 });
    const before = fill([back]);
    back.start();
    back.numCachedTokens = 6;
    back.preempt();
    expect(fill([back]), 'all values, after the sequence was preempted').toEqual(before);
  });

  test("a request's own seed, in two words", () => {
    const cases: [seed: number, low: number, high: number][] = [
      [0, 0, 0],
      [7, 7, 0],
      [2 ** 32 - 1, 2 ** 32 - 1, 0],
      [2 ** 32, 0, 1],
      [2 ** 33 + 5, 5, 2],
      [Number.MAX_SAFE_INTEGER, 2 ** 32 - 1, 2 ** 21 - 1],
    ];
    for (const [seed, low, high] of cases) {
      const values = fill([sequence({ seed }, { index: 3 })], 1, 77);
      expect(seedOf(values), `low and high word of seed ${seed}`).toEqual([low, high]);
    }
  });

  test("without one: the engine's seed, and the request's number in the marked high word", () => {
    const seqs = [0, 1, 1000].map((index) => sequence({}, { index }));
    const values = fill(seqs, 3, 77);
    const words = seqs.map((_, b) => seedOf(values, b));
    expect(words, 'requests 0, 1 and 1000, engine seed 77').toEqual([
      [77, 2 ** 31],
      [77, 2 ** 31 + 1],
      [77, 2 ** 31 + 1000],
    ]);
    expect(seedOf(fill([seqs[1]], 1, 2 ** 40 + 9)), 'request 1, engine seed 2⁴⁰ + 9').toEqual([9, 2 ** 31 + 1]);
  });

  test('a sequence gets the same values in any row, beside any others', () => {
    const options = { temperature: 0.7, seed: 2 ** 35 + 1 };
    const [a, b, c] = [options, {}, {}].map((o, index) => sequence(o, { index, output: 2 * index }));
    const [alone, last] = [fill([a]), fill([c, b, a])];
    expect(seedOf(last, 2), 'seed in row 2, and alone').toEqual(seedOf(alone));
    expect(last.position[2], 'position in row 2, and alone').toBe(alone.position[0]);
    expect(last.temperature[2], 'temperature in row 2, and alone').toBe(alone.temperature[0]);
  });

  test('rows that are left are greedy', () => {
    const { temperature } = fill([sequence({ temperature: 0.5 }), sequence({ temperature: 2 })], 5);
    expect([...temperature], 'temperature of 2 sequences in 5 rows').toEqual([0.5, 2, 0, 0, 0]);
    expect([...fill([], 2).temperature], 'temperature of no sequence in 2 rows').toEqual([0, 0]);
  });
});

describe('5.4 Stop strings', () => {
  /** Checks what each push of `texts` returns, what `flush` returns then, and which stop string was found. */
  function expectPushes(stops: string[], texts: string[], out: string[], matched?: string, flushed = '') {
    const checker = new StopChecker(stops);
    const what = `stop ${JSON.stringify(stops)}, pushed ${JSON.stringify(texts)}`;
    const returned = texts.map((text) => checker.push(text));
    expect(returned, `${what}: what each push returns`).toEqual(out);
    expect(checker.matched, `${what}: matched`).toBe(matched);
    expect(checker.flush(), `${what}: what flush returns`).toBe(flushed);
  }

  test('within one piece of text', () => {
    expectPushes(['END'], ['one END two'], ['one '], 'END');
    expectPushes(['END'], ['END'], [''], 'END');
    expectPushes(['.'], ['one. two. three'], ['one'], '.');
    expectPushes(['END'], ['no such thing'], ['no such thing']);
  });

  test('across pieces: what may become a stop string is held back', () => {
    expectPushes(['END'], ['one E', 'N', 'D two'], ['one ', '', ''], 'END');
    expectPushes(['ab'], ['xa', 'b'], ['x', ''], 'ab');
    expectPushes(['\n\nUser:'], ['Good.\n', '\n', 'User', ': hello'], ['Good.', '', '', ''], '\n\nUser:');
    const checker = new StopChecker(['END']);
    checker.push('x E');
    expect(checker.matched, 'matched, while only its first letter has come').toBeUndefined();
  });

  test('and comes out when it does not', () => {
    expectPushes(['Elephant'], ['An El', 'k', ' and'], ['An ', 'Elk', ' and']);
    expectPushes(['END'], ['The EN'], ['The '], undefined, 'EN');
  });

  test('a false start may hold the true one', () => {
    expectPushes(['aab'], ['a', 'a', 'a', 'b'], ['', '', 'a', ''], 'aab');
    expectPushes(['abac'], ['a', 'b', 'a', 'b', 'a', 'c'], ['', '', '', 'ab', '', ''], 'abac');
  });

  test('nothing comes after a stop', () => {
    expectPushes(['END'], ['one END two', 'three', 'END'], ['one ', '', ''], 'END');
  });

  test('of several, the one that is complete first; of those the longest', () => {
    expectPushes(['two', 'one'], ['one two'], [''], 'one');
    expectPushes(['one two', 'two', 'ne'], ['one two'], ['o'], 'ne');
    expectPushes(['bc', 'abc'], ['xabcx'], ['x'], 'abc');
    expectPushes(['abc', 'bc'], ['xab', 'cx'], ['x', ''], 'abc');
    expectPushes(['abcd', 'bc'], ['xabcd'], ['xa'], 'bc');
  });

  test('held back for one of several: no more than needed', () => {
    expectPushes(['abcd', 'cx'], ['-abc', 'e'], ['-', 'abce']);
    expectPushes(['zzzzzz', 'ab'], ['12345a', 'c'], ['12345', 'ac']);
  });

  test('the stop string stays with includeStopStrInOutput', () => {
    const checker = new StopChecker(['END'], { includeStopStrInOutput: true });
    const out = ['one EN', 'D two', 'three'].map((text) => checker.push(text));
    expect(out, "'one EN', 'D two' and 'three', with the stop string in the output").toEqual(['one ', 'END', '']);
    expect(checker.matched, 'matched').toBe('END');
  });

  test('the result does not depend on how the text is cut', () => {
    const random = randomNumbers(4);
    const word = (shortest: number, longest: number) => {
      const length = shortest + Math.floor((longest - shortest + 1) * random());
      return Array.from({ length }, () => 'ab'[Math.floor(2 * random())]).join('');
    };
    for (let i = 0; i < 500; i++) {
      const stops = Array.from({ length: 1 + Math.floor(2 * random()) }, () => word(2, 6));
      const texts = Array.from({ length: 6 }, () => word(0, 3));
      const what = `stop ${JSON.stringify(stops)}, pushed ${JSON.stringify(texts)}`;
      const checker = new StopChecker(stops);
      let [said, pushed] = ['', ''];
      for (const text of texts) {
        pushed += text;
        said += checker.push(text);
        const expected = outputOf(pushed, stops);
        expect([said, checker.matched], `${what}: out by then, and matched (${FROM_SEED})`).toEqual(expected);
      }
    }
  });

  /** By the definition, what of a text is certain, and the stop string in it. */
  function outputOf(text: string, stops: string[]): [string, string | undefined] {
    const longestFirst = [...stops].sort((a, b) => b.length - a.length);
    for (let end = 1; end <= text.length; end++) {
      const stop = longestFirst.find((candidate) => text.slice(0, end).endsWith(candidate));
      if (stop !== undefined) return [text.slice(0, end - stop.length), stop];
    }
    let certain = 0;
    while (!stops.some((stop) => stop.startsWith(text.slice(certain)))) certain++;
    return [text.slice(0, certain), undefined];
  }
});

// The device of the engine's tests knows a small language: these tokens. 'Ã' and '©' stand for the two bytes of 'é'.
const VOCABULARY = ['<end>', ...'abcdefghij', 'Ã', '©'];
const EOS = 0;
const idsOf = (text: string) => [...text].map((letter) => VOCABULARY.indexOf(letter));
const tokenizer = {
  isByteLevel: true,
  token: (id: number) => VOCABULARY[id],
  isAdded: (id: number) => id === EOS,
  isSpecial: (id: number) => id === EOS,
  encode: idsOf,
} as unknown as Tokenizer;

interface Launch {
  readonly isPrefill: boolean;
  /** The requests in the step, by the first letters of their prompts. */
  readonly requests: string;
  readonly requestIndices: number[];
}

/**
 * Stands for model and device: a request whose prompt begins with a letter gets the tokens that `answers` has under that
 * letter, and then 'j's. Steps end soon after they are launched, one after the other; with `manual` when `end` is called.
 */
class Device {
  readonly launches: Launch[] = [];
  manual = false;
  failLaunch: (launch: Launch) => unknown = () => undefined;
  failRead: (launch: Launch) => unknown = () => undefined;
  private readonly running: (() => void)[] = [];

  constructor(private readonly answers: Record<string, string | number[]> = {}) {}

  launch({ isPrefill, seqs, numDrawing }: Batch): Promise<StepResult> {
    const requests = seqs.map((seq) => VOCABULARY[seq.tokenIds[0]]).join('');
    const launch = { isPrefill, requests, requestIndices: seqs.map((seq) => seq.requestIndex) };
    const failure = this.failLaunch(launch);
    if (failure !== undefined) throw failure;
    this.launches.push(launch);
    const drawing = seqs.slice(0, numDrawing);
    const tokenIds = drawing.map((seq) => {
      const answer = this.answers[VOCABULARY[seq.tokenIds[0]]] ?? '';
      return (typeof answer === 'string' ? idsOf(answer) : answer)[seq.numOutputTokens] ?? idsOf('j')[0];
    });
    const logprobs = new Map<number, TokenLogprobs>();
    drawing.forEach(({ samplingParams, numOutputTokens }, i) => {
      if (samplingParams.logprobs !== undefined) logprobs.set(i, { logprob: -1 - numOutputTokens, top: [] });
    });
    return new Promise((resolve, reject) => {
      const end = () => {
        const error = this.failRead(launch);
        if (error === undefined) resolve({ tokenIds, logprobs });
        else reject(error);
      };
      if (this.manual) this.running.push(end);
      else setImmediate(end);
    });
  }

  /** Ends the oldest step that is still running. */
  end(): void {
    this.running.shift()?.();
  }

  close(): void {}
}

const OPTIONS: EngineOptions = {
  maxModelLen: 24,
  maxNumSeqs: 4,
  maxNumBatchedTokens: 32,
  kvCacheBlockSize: 4,
  numKvCacheBlocks: 24,
  enablePrefixCaching: true,
  vocabSize: VOCABULARY.length,
  eosTokenIds: [EOS],
  tokenizer,
  runAhead: false,
};

function setup(answers: Record<string, string | number[]> = {}, options: Partial<EngineOptions> = {}) {
  const device = new Device(answers);
  const engine = new LLMEngine(device, { ...OPTIONS, ...options });
  // A `step` that goes on although launchNext returns false would hang this whole run.
  const inner = engine as unknown as { launchNext: () => boolean };
  const launchNext = inner.launchNext.bind(engine);
  let calls = 0;
  inner.launchNext = () => {
    if (++calls > 1000) throw new Error('launchNext was called 1000 times. Does step stop when it returns false?');
    return launchNext();
  };
  return { device, engine };
}

/** For 5.5, where nothing fails on purpose: what is thrown in a step is a mistake there, and shown as it is. */
function setupSound(answers: Record<string, string | number[]> = {}, options: Partial<EngineOptions> = {}) {
  const made = setup(answers, options);
  const fail = (_: Batch, cause: unknown) => {
    throw cause;
  };
  Object.assign(made.engine, { fail });
  return made;
}

/** The result of `work`, unless it takes longer than anything here may. */
function inTime<T>(work: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} does not end.`)), 2000);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

const stepOf = (engine: LLMEngine) => inTime(engine.step(), 'step()');

/** Blocks in use must be those of the requests that have not ended. */
function checkBlocks(engine: LLMEngine): void {
  try {
    engine.checkIntegrity();
  } catch (error) {
    expect.fail(`${(error as Error).message} Has the scheduler ended every sequence whose request has ended?`);
  }
}

/** Steps until there is nothing left; what all steps returned. Then nothing of the requests may be left. */
async function runAll(engine: LLMEngine, updates: RequestUpdate[] = []): Promise<RequestUpdate[]> {
  for (let steps = 0; engine.hasUnfinishedRequests; steps++) {
    if (steps === 100) expect.fail('hasUnfinishedRequests is still true after 100 steps.');
    updates.push(...(await stepOf(engine)));
    checkBlocks(engine);
  }
  const { requests } = engine as unknown as { requests: ReadonlyMap<unknown, unknown> };
  expect(requests.size, 'requests the engine still keeps when all have ended').toBe(0);
  expect(engine.numFreeBlocks, 'free blocks when all requests have ended').toBe(OPTIONS.numKvCacheBlocks);
  return updates;
}

/** All that a caller was told of its request. */
function toldOf(updates: readonly RequestUpdate[], requestId: number) {
  const own = updates.filter((update) => update.requestId === requestId);
  return {
    text: own.map(({ text }) => text).join(''),
    tokenIds: own.flatMap(({ tokenIds }) => tokenIds),
    endings: own.filter(({ output, error }) => output || error).length,
    output: own.find(({ output }) => output)?.output,
    error: own.find(({ error }) => error)?.error,
  };
}

/** Checks that the updates of a request add up to these tokens, and that exactly one, with its output, is the last. */
function expectTold(
  updates: readonly RequestUpdate[],
  requestId: number,
  what: string,
  expected: { tokens: readonly number[]; text: string; finishReason: RequestOutput['finishReason'] },
) {
  const { text, tokenIds, endings, output, error } = toldOf(updates, requestId);
  if (error) expect.fail(`${what} ended with an error: ${error.message}`);
  expect(tokenIds, `${what}: the tokens in its updates`).toEqual(expected.tokens);
  expect(text, `${what}: the text in its updates`).toBe(expected.text);
  expect(endings, `${what}: updates that carry its output`).toBe(1);
  expect(output?.tokenIds, `${what}: output.tokenIds`).toEqual(expected.tokens);
  expect(output?.text, `${what}: output.text`).toBe(expected.text);
  expect(output?.finishReason, `${what}: output.finishReason`).toBe(expected.finishReason);
}

describe('5.5 The loop', () => {
  test('a request is served: one token a step, and the output with the last', async () => {
    const { engine, device } = setupSound({ a: 'cde' });
    expect(engine.hasUnfinishedRequests, 'hasUnfinishedRequests of a new engine').toBe(false);
    const id = engine.addRequest('ab', { maxTokens: 3 });
    expect(engine.hasUnfinishedRequests, 'hasUnfinishedRequests after addRequest').toBe(true);
    for (const letter of 'cde') {
      const updates = await stepOf(engine);
      const got = updates.map(({ requestId, text, tokenIds }) => ({ requestId, text, tokenIds }));
      expect(got, `what the step that draws '${letter}' returns`).toEqual([
        { requestId: id, text: letter, tokenIds: idsOf(letter) },
      ]);
      if (letter !== 'e') {
        expect(updates[0].output, `the output, after '${letter}'`).toBeUndefined();
        continue;
      }
      expect(updates[0].output, 'the output, with the last token').toMatchObject({
        prompt: 'ab',
        promptTokenIds: idsOf('ab'),
        text: 'cde',
        tokenIds: idsOf('cde'),
        finishReason: 'length',
      });
    }
    expect(engine.hasUnfinishedRequests, 'hasUnfinishedRequests in the end').toBe(false);
    expect(device.launches.map(({ isPrefill }) => isPrefill).join(' '), 'steps that were prefill').toBe(
      'true false false',
    );
    expect(engine.numFreeBlocks, 'free blocks in the end').toBe(OPTIONS.numKvCacheBlocks);
    expect(engine.counters, 'the counters').toMatchObject({ steps: 3, promptTokens: 2, generatedTokens: 3 });
  });

  test('a step with nothing to do returns nothing, and launches nothing', async () => {
    const { engine, device } = setupSound();
    expect(await stepOf(engine), 'what a step without requests returns').toEqual([]);
    expect(device.launches.length, 'steps launched').toBe(0);
  });

  test('addRequest numbers its requests, and takes text or token ids, parameters or options', async () => {
    const { engine, device } = setupSound({ a: 'c', b: 'd', c: 'e' });
    const prompts: [Prompt, SamplingParams | SamplingOptions][] = [
      ['ab', { maxTokens: 1 }],
      [idsOf('ba'), new SamplingParams({ maxTokens: 1 })],
      ['cc', new SamplingParams({ maxTokens: 1 })],
    ];
    const ids = prompts.map(([prompt, params]) => engine.addRequest(prompt, params));
    expect(ids, 'the ids of three requests').toEqual([0, 1, 2]);
    expect(engine.counters.promptTokens, 'counters.promptTokens').toBe(6);
    const { requests } = engine as unknown as { requests: ReadonlyMap<Sequence, unknown> };
    const blockSizes = [...requests.keys()].map(({ blockSize }) => blockSize);
    expect(blockSizes, 'blockSize of their sequences: kvCacheBlockSize').toEqual([4, 4, 4]);
    const updates = await runAll(engine);
    const outputs = ids.map((id) => toldOf(updates, id).output);
    expect(
      outputs.map((output) => output?.text),
      'their texts',
    ).toEqual(['c', 'd', 'e']);
    expect(
      outputs.map((output) => output?.prompt),
      'their prompts, where they were text',
    ).toEqual(['ab', undefined, 'cc']);
    expect(device.launches[0].requestIndices, 'requestIndex of their sequences: it seeds their draws').toEqual(ids);
  });

  test('a request that is refused leaves no trace', async () => {
    const { engine, device } = setupSound();
    const refused: [Prompt, SamplingOptions][] = [
      ['', {}],
      ['a'.repeat(24), {}],
      [[99], {}],
      ['ab', { maxTokens: 0 }],
      ['ab', { temperature: -1 }],
    ];
    for (const [prompt, options] of refused) {
      const what = `prompt ${JSON.stringify(prompt)} with ${JSON.stringify(options)}`;
      let error: unknown;
      try {
        engine.addRequest(prompt, options);
      } catch (thrown) {
        if ((thrown as Error).name === 'TodoError') throw thrown;
        error = thrown;
      }
      expect(error, `what addRequest throws for ${what}`).toBeInstanceOf(InvalidRequestError);
      expect(engine.hasUnfinishedRequests, `hasUnfinishedRequests after ${what}`).toBe(false);
    }
    expect(engine.counters.promptTokens, 'counters.promptTokens after refusals only').toBe(0);
    expect(engine.addRequest('ab', { maxTokens: 1 }), 'the id of the first request that is accepted').toBe(0);
    await runAll(engine);
    expect(device.launches.map(({ requests }) => requests).join(' '), 'what was launched').toBe('a');
  });

  test('requests share steps, and each gets its own tokens', async () => {
    for (const runAhead of [false, true]) {
      const { engine, device } = setupSound({ a: 'cdefg', b: [...idsOf('hi'), EOS] }, { runAhead });
      const [a, b] = [engine.addRequest('aa', { maxTokens: 5 }), engine.addRequest('bbb', { maxTokens: 9 })];
      const updates = await runAll(engine);
      const how = runAhead ? ' (with run-ahead)' : '';
      expect(device.launches[0].requests, `requests in the first step${how}`).toBe('ab');
      expectTold(updates, a, `request a${how}`, { tokens: idsOf('cdefg'), text: 'cdefg', finishReason: 'length' });
      expectTold(updates, b, `request b${how}`, { tokens: [...idsOf('hi'), EOS], text: 'hi', finishReason: 'stop' });
    }
  });

  test('one that ended while its step ran moves nobody to its place', async () => {
    const { engine } = setupSound({ a: [EOS], b: 'cd' }, { runAhead: true });
    const a = engine.addRequest('a', { maxTokens: 9 });
    const b = engine.addRequest('b', { maxTokens: 2, logprobs: 0 });
    const updates = await runAll(engine);
    expectTold(updates, a, 'request a, which ends at once', { tokens: [EOS], text: '', finishReason: 'stop' });
    const what = 'request b, second in the step in which a gets no token';
    expectTold(updates, b, what, { tokens: idsOf('cd'), text: 'cd', finishReason: 'length' });
    const logprobs = toldOf(updates, b).output?.logprobs?.map(({ logprob }) => logprob);
    expect(logprobs, `${what}: its log-probabilities`).toEqual([-1, -2]);
  });

  test('a request may come at any time, and nobody waits for it', async () => {
    const { engine, device } = setupSound({ a: 'cdef', b: 'gh' });
    const a = engine.addRequest('a', { maxTokens: 4 });
    const updates = [...(await stepOf(engine)), ...(await stepOf(engine))];
    const b = engine.addRequest('b', { maxTokens: 2 });
    await runAll(engine, updates);
    expectTold(updates, a, 'request a', { tokens: idsOf('cdef'), text: 'cdef', finishReason: 'length' });
    expectTold(updates, b, 'request b', { tokens: idsOf('gh'), text: 'gh', finishReason: 'length' });
    expect(device.launches.map(({ requests }) => requests).join(' '), 'requests in each step').toBe('a a b ab a');
  });

  test('a prompt that is not computed to its end yields no token', async () => {
    const { engine } = setupSound({ a: 'cd' }, { maxNumBatchedTokens: 4, maxNumSeqs: 2 });
    const id = engine.addRequest('abcabcabca', { maxTokens: 2 });
    const first = await stepOf(engine);
    expect(first, 'what the step returns that computes tokens 0 to 3 of 10').toEqual([]);
    const updates = await runAll(engine, first);
    expectTold(updates, id, 'the request', { tokens: idsOf('cd'), text: 'cd', finishReason: 'length' });
    expect(engine.counters.steps, 'counters.steps: three for the prompt, one more').toBe(4);
  });

  test('without run-ahead one step is in flight, with it two; and step waits for the oldest only', async () => {
    for (const [runAhead, atOnce] of [
      [false, 1],
      [true, 2],
    ] as const) {
      const { engine, device } = setupSound({ a: 'cdef' }, { runAhead });
      const how = `with runAhead ${runAhead}`;
      device.manual = true;
      engine.addRequest('a', { maxTokens: 9 });
      for (let step = 1; step <= 3; step++) {
        const stepping = engine.step();
        await new Promise((done) => setImmediate(done));
        expect(device.launches.length, `steps launched when ${step} are asked for, ${how}`).toBe(step - 1 + atOnce);
        device.end();
        const [update] = await inTime(stepping, `step(), ${how}, when its step has ended on the device,`);
        expect(update?.text, `text of step ${step}, ${how}`).toBe('cdef'[step - 1]);
      }
    }
  });

  test('a step in flight must be fetched, even when nobody waits for its tokens', async () => {
    const { engine, device } = setupSound({ a: [EOS] }, { runAhead: true });
    const id = engine.addRequest('a', { maxTokens: 9 });
    const updates = await stepOf(engine);
    expectTold(updates, id, 'the request', { tokens: [EOS], text: '', finishReason: 'stop' });
    expect(device.launches.length, 'steps launched: the second began before the end was known').toBe(2);
    expect(engine.hasUnfinishedRequests, 'hasUnfinishedRequests while the second step is in flight').toBe(true);
    expect(await stepOf(engine), 'what the second step returns: its token is thrown away').toEqual([]);
    expect(engine.hasUnfinishedRequests, 'hasUnfinishedRequests after it').toBe(false);
    expect(engine.counters, 'the counters').toMatchObject({ generatedTokens: 1, discardedTokens: 1, steps: 2 });
  });

  test('what ended a request between steps is told by the next step, once', async () => {
    const { engine } = setupSound({ a: 'c' });
    const told = { requestId: 99, text: 'told', tokenIds: [], logprobs: undefined };
    Object.assign(engine, { endedOtherwise: [told] }); // as `abort` and a launch that failed leave it
    expect(engine.hasUnfinishedRequests, 'hasUnfinishedRequests with an update to fetch').toBe(true);
    expect(await stepOf(engine), 'what the next step returns').toEqual([told]);
    expect(engine.hasUnfinishedRequests, 'hasUnfinishedRequests afterwards').toBe(false);
    expect(await stepOf(engine), 'what the step after that returns').toEqual([]);
    const id = engine.addRequest('a', { maxTokens: 1 });
    Object.assign(engine, { endedOtherwise: [told] });
    const ids = (await stepOf(engine)).map(({ requestId }) => requestId);
    expect(ids, 'the requests in the updates of a step that has both').toEqual([99, id]);
  });

  test('text that was held back comes out with the last token', async () => {
    const { engine } = setupSound({ a: 'cÃ', b: 'cÃ©d' });
    const [cut, whole] = [engine.addRequest('a', { maxTokens: 2 }), engine.addRequest('b', { maxTokens: 4 })];
    const updates = await runAll(engine);
    const { text } = toldOf(updates, cut);
    expect(text, "the text of 'c' and the first byte of 'é': half a character shows as U+FFFD").toBe('c\ufffd');
    expect(toldOf(updates, cut).output?.text, 'output.text').toBe('c\ufffd');
    expect(toldOf(updates, whole).text, "the text of 'c', the two bytes of 'é' and 'd'").toBe('céd');
  });

  test('log-probabilities go to those who asked', async () => {
    const { engine } = setupSound();
    const [without, asked] = [{}, { logprobs: 0 }].map((o) => engine.addRequest('a', { maxTokens: 2, ...o }));
    const updates = await runAll(engine);
    const logprobsOf = (id: number) => updates.filter((u) => u.requestId === id).map((u) => u.logprobs);
    expect(logprobsOf(without), 'logprobs in updates of a request that did not ask').toEqual([undefined, undefined]);
    const [first, second] = [-1, -2].map((logprob) => ({ logprob, top: [] }));
    expect(logprobsOf(asked), 'logprobs in updates of one that did').toEqual([[first], [second]]);
    expect(toldOf(updates, asked).output?.logprobs, 'output.logprobs').toEqual([first, second]);
  });

  test('a stop string ends a request (it needs task 5.4)', async () => {
    const { engine } = setupSound({ a: 'cdef', b: 'cdef', c: 'cdef' });
    const stopped = engine.addRequest('a', { maxTokens: 9, stop: 'e' });
    const atLength = engine.addRequest('b', { maxTokens: 3, stop: 'e' });
    const started = engine.addRequest('c', { maxTokens: 2, stop: 'dx' });
    const updates = await runAll(engine);
    const expected = { tokens: idsOf('cde'), text: 'cd', finishReason: 'stop' } as const;
    expectTold(updates, stopped, "stop 'e'", expected);
    expectTold(updates, atLength, "stop 'e', by the token that is also the last of maxTokens", expected);
    const what = "stop 'dx', of which only the 'd' comes";
    expectTold(updates, started, what, { tokens: idsOf('cd'), text: 'cd', finishReason: 'length' });
  });
});

describe('5.6 Aborts and failures', () => {
  const failure = new Error('the device is on fire');

  /** Checks that a request ended with this error, said once, and with nothing else. */
  function expectError(updates: readonly RequestUpdate[], requestId: number, what: string, error: unknown = failure) {
    const last = updates.filter((update) => update.requestId === requestId).at(-1);
    expect(toldOf(updates, requestId).endings, `${what}: updates that carry an error or an output`).toBe(1);
    expect(last, `${what}: its last update`).toEqual({
      requestId,
      text: '',
      tokenIds: [],
      logprobs: undefined,
      error,
    });
  }

  test('abort ignores ids it does not know', () => {
    const { engine } = setup();
    engine.abort(0);
    engine.abort(999);
  });

  test('aborted before it ran', async () => {
    const { engine, device } = setup();
    const id = engine.addRequest('ab');
    engine.abort(id);
    expect(engine.hasUnfinishedRequests, 'hasUnfinishedRequests: its update is still to be fetched').toBe(true);
    const updates = await runAll(engine);
    expectTold(updates, id, 'the request', { tokens: [], text: '', finishReason: 'abort' });
    expect(device.launches.length, 'steps launched').toBe(0);
  });

  test('aborted while it runs: it keeps what it has, and its blocks are free', async () => {
    const { engine } = setup({ a: 'cdef', b: 'gh' });
    const [gone, stays] = [engine.addRequest('a', { maxTokens: 9 }), engine.addRequest('b', { maxTokens: 4 })];
    const updates = [...(await stepOf(engine)), ...(await stepOf(engine))];
    engine.abort(gone);
    expect(engine.numFreeBlocks, 'free blocks right after abort: only the block of the other is in use').toBe(23);
    checkBlocks(engine);
    await runAll(engine, updates);
    expectTold(updates, gone, 'the aborted request', { tokens: idsOf('cd'), text: 'cd', finishReason: 'abort' });
    expectTold(updates, stays, 'the other', { tokens: idsOf('ghjj'), text: 'ghjj', finishReason: 'length' });
  });

  test('the text that was held back comes with the abort', async () => {
    const { engine } = setup({ a: 'cÃ' });
    const id = engine.addRequest('a', { maxTokens: 9 });
    const updates = [...(await stepOf(engine)), ...(await stepOf(engine))];
    engine.abort(id);
    await runAll(engine, updates);
    const what = "'c' and the first byte of 'é', then abort";
    expectTold(updates, id, what, { tokens: idsOf('cÃ'), text: 'c\ufffd', finishReason: 'abort' });
  });

  test('a second abort changes nothing, nor does one that comes too late', async () => {
    const { engine } = setup({ a: 'c', b: 'd' });
    const [twice, late] = [engine.addRequest('a', { maxTokens: 5 }), engine.addRequest('b', { maxTokens: 1 })];
    const updates = await stepOf(engine);
    for (const id of [twice, twice, late]) engine.abort(id);
    await runAll(engine, updates);
    expectTold(updates, twice, 'aborted twice', { tokens: idsOf('c'), text: 'c', finishReason: 'abort' });
    expectTold(updates, late, 'aborted after its end', { tokens: idsOf('d'), text: 'd', finishReason: 'length' });
  });

  test('aborted while its step is in flight: the token is thrown away', async () => {
    for (const runAhead of [false, true]) {
      const { engine } = setup({ a: 'cde', b: 'fg' }, { runAhead });
      const [gone, stays] = [engine.addRequest('a', { maxTokens: 9 }), engine.addRequest('b', { maxTokens: 2 })];
      const stepping = engine.step();
      engine.abort(gone);
      const updates = await runAll(engine, await inTime(stepping, 'step()'));
      const how = runAhead ? ' (with run-ahead)' : '';
      expectTold(updates, gone, `the aborted request${how}`, { tokens: [], text: '', finishReason: 'abort' });
      expectTold(updates, stays, `the other${how}`, { tokens: idsOf('fg'), text: 'fg', finishReason: 'length' });
    }
  });

  test('a launch that fails ends the requests that were in it; the engine goes on', async () => {
    const { engine, device } = setup({ c: 'de' });
    device.failLaunch = () => failure;
    const [a, b] = [engine.addRequest('a'), engine.addRequest('b')];
    const updates = await runAll(engine);
    expectError(updates, a, 'request a');
    expectError(updates, b, 'request b');
    device.failLaunch = () => undefined;
    const next = engine.addRequest('c', { maxTokens: 2 });
    await runAll(engine, updates);
    expectTold(updates, next, 'the next request', { tokens: idsOf('de'), text: 'de', finishReason: 'length' });
  });

  test('and no others', async () => {
    for (const runAhead of [false, true]) {
      const { engine, device } = setup({ a: 'cdef' }, { runAhead });
      device.failLaunch = ({ requests }) => (requests.includes('b') ? failure : undefined);
      const good = engine.addRequest('a', { maxTokens: 4 });
      const updates = await stepOf(engine);
      const bad = engine.addRequest('b', { maxTokens: 4 });
      await runAll(engine, updates);
      const how = runAhead ? ' (with run-ahead)' : '';
      expectError(updates, bad, `the request whose prefill fails${how}`);
      const what = `the request that was running${how}`;
      expectTold(updates, good, what, { tokens: idsOf('cdef'), text: 'cdef', finishReason: 'length' });
    }
  });

  test('a step that fails while it runs ends its requests, after the tokens they had', async () => {
    const { engine, device } = setup({ a: 'cdef' });
    const id = engine.addRequest('a', { maxTokens: 9 });
    const updates = await stepOf(engine);
    device.failRead = () => failure;
    await runAll(engine, updates);
    expectError(updates, id, 'the request');
    expect(toldOf(updates, id).tokenIds, 'the tokens in its updates').toEqual(idsOf('c'));
  });

  test('a step on top of a failed one goes on for the others', async () => {
    const { engine, device } = setup({ b: [...idsOf('g'), EOS] }, { runAhead: true });
    const bad = engine.addRequest('a', { maxTokens: 9 });
    const updates = await stepOf(engine); // now the first decode step of `a` is in flight
    device.failRead = ({ isPrefill, requests }) => (!isPrefill && requests.includes('a') ? failure : undefined);
    const good = engine.addRequest('b', { maxTokens: 9 }); // and its prefill goes on top
    await runAll(engine, updates);
    expectError(updates, bad, 'the request whose step failed');
    const expected = { tokens: [...idsOf('g'), EOS], text: 'g', finishReason: 'stop' } as const;
    expectTold(updates, good, 'the request whose step came after', expected);
  });

  test('whoever has ended already is told nothing more', async () => {
    const { engine, device } = setup();
    const [gone, bad] = [engine.addRequest('a'), engine.addRequest('b')];
    device.failRead = () => failure;
    const stepping = engine.step();
    engine.abort(gone);
    const updates = await runAll(engine, await inTime(stepping, 'step()'));
    expectTold(updates, gone, 'aborted before the step failed', { tokens: [], text: '', finishReason: 'abort' });
    expectError(updates, bad, 'the other');
  });

  test('what is thrown and is no Error becomes one', async () => {
    const { engine, device } = setup();
    device.failLaunch = () => 'out of memory';
    const id = engine.addRequest('a');
    const { error } = toldOf(await runAll(engine), id);
    expect(error, "the error, where the string 'out of memory' was thrown").toBeInstanceOf(Error);
    expect(error?.message, 'its message').toContain('out of memory');
  });
});
