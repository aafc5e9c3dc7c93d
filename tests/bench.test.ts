// The benchmarks' own arithmetic, and that each suite which needs no GPU runs.
import { describe, expect, test } from 'vitest';
import { Costs } from '#nano/bench/costs';
import { latency } from '#nano/bench/latency';
import { parseBenchArguments } from '#nano/bench/options';
import { PythonRandom } from '#nano/bench/python-random';
import { type BenchRow, render } from '#nano/bench/report';
import { serving } from '#nano/bench/serving';
import { SHAPES } from '#nano/bench/shapes';
import { soak } from '#nano/bench/soak';
import { startup } from '#nano/bench/startup';
import { nanoVllmWorkload, throughput } from '#nano/bench/throughput';
import { ConfigError } from '#nano/errors';
import { parseModelConfig } from '#nano/models/model-config';
import { TEST_BACKENDS } from './helpers/backends';

describe('random numbers as in Python', () => {
  test('random.seed(0); [random.randint(0, 10000) for _ in range(5)]', () => {
    const random = new PythonRandom(0);
    expect(Array.from({ length: 5 }, () => random.randint(0, 10000))).toEqual([6311, 6890, 663, 4242, 8376]);
  });

  test("nano-vllm's workload is the one its figures were measured with", () => {
    const workload = nanoVllmWorkload(256);
    expect(workload[0].prompt).toHaveLength(964);
    expect(workload.slice(0, 5).map(({ outputs }) => outputs)).toEqual([845, 312, 607, 843, 500]);
    expect(workload[255].prompt.slice(-3)).toEqual([6642, 9046, 1958]);
    expect(workload.reduce((sum, { prompt }) => sum + prompt.length, 0)).toBe(142_827);
    expect(workload.reduce((sum, { outputs }) => sum + outputs, 0)).toBe(133_966);
  });
});

test('what Qwen3-0.6B costs', () => {
  const costs = new Costs(parseModelConfig(JSON.stringify(SHAPES['qwen3-0.6b']), 'config.json'), 1.19e9, 2);
  expect(costs.kvBytesPerToken).toBe(114_688);
  expect(costs.decodeBytes(1000)).toBe(1.19e9 + 114_688_000);
  // 440 M weights in the layers and 156 M in the LM head; attention over one key.
  expect(costs.prefillOps([1])).toBeCloseTo(2 * (440_401_920 + 155_582_464) + 4 * 28 * 16 * 128, -3);
});

const ascending = (a: number, b: number) => a - b;

describe.each(TEST_BACKENDS)('suites on %s', (backend) => {
  const context = {
    shape: 'tiny',
    inputLen: [5, 9],
    outputLen: 3,
    repeats: 2,
    options: { backend, numKvCacheBlocks: 512 },
    limits: () => ({ bandwidth: 1e10, matrixRate: 1e11 }),
    log: () => {},
  } as const;
  const expectFigures = (rows: BenchRow[]) => {
    for (const { what, value, bound = 1 } of rows) expect(Math.min(value ?? -1, bound), what).toBeGreaterThanOrEqual(0);
    expect(render(rows).split('\n').length).toBeGreaterThan(rows.filter(({ table }) => !table).length);
  };

  test('latency', async () => {
    const rows = await latency({ ...context, batch: [1, 3] });
    expectFigures(rows);
    const whats = ['1 × 5', '1 × 9', '3 × 5', '3 × 9'];
    expect(rows.filter(({ unit, table }) => unit === 'ms' && !table).map(({ what }) => what)).toEqual(
      whats.flatMap((what) => [`${what}: first token`, `${what}: each next token`]),
    );
    // In the table: every request's gaps and its whole time, each in ascending percentiles.
    for (const what of whats) {
      const cells = rows.filter((row) => row.table && row.what === what);
      const names = ['next token', 'end to end'].flatMap((name) => ['p50', 'p90', 'p99'].map((p) => `${name} ${p}`));
      expect(cells.map(({ column }) => column)).toEqual(names);
      const values = cells.map(({ value }) => value ?? Number.NaN);
      expect(values).toEqual([...values.slice(0, 3).sort(ascending), ...values.slice(3).sort(ascending)]);
      const [next] = rows.filter((row) => row.what === `${what}: each next token`);
      expect(values[3], 'a whole request takes longer than its two further tokens').toBeGreaterThan(
        2 * (next.value ?? 0),
      );
    }
  });

  test('serving', async () => {
    const load = { inputLen: [20, 30], outputLen: 4, sharedLen: 32, numRequests: 5, rates: [200, 1000] };
    const options = { ...context.options, maxNumSeqs: 4, maxNumBatchedTokens: 16 };
    const rows = await serving({ ...context, ...load, options });
    expectFigures(rows);
    expect([...new Set(rows.map(({ table }) => table))]).toEqual(
      ['on, chunks of 16', 'on, whole prompts', 'off, chunks of 16', 'off, whole prompts'].map(
        (variant) => `Serving, prefix caching ${variant}: by requests a second that arrive`,
      ),
    );
    expect([...new Set(rows.map(({ column }) => column))]).toEqual(['200 req/s', '1000 req/s']);
    const figure = (name: string) => rows.filter(({ what }) => what === name).map(({ value }) => value ?? Number.NaN);
    const [firsts, ends, served] = ['first token p50, ms', 'end to end p50, ms', 'served, requests/s'].map(figure);
    firsts.forEach((first, i) => expect(first).toBeLessThan(ends[i]));
    figure('output, tok/s').forEach((rate, i) => expect(rate).toBeCloseTo(4 * served[i], 6));
    // Asked for one setting, it measures that one; without rates it finds some.
    const one = await serving({
      ...context,
      ...load,
      rates: undefined,
      options: { ...options, enablePrefixCaching: false },
    });
    expect(one).toHaveLength((rows.length / 4 / 2) * 2 * 4);
  });

  test.runIf(backend === 'cpu')('soak', async () => {
    const rows = await soak({ ...context, seconds: 2, options: { backend, maxNumSeqs: 16 } });
    expect(rows.find(({ what }) => what === 'blocks not given back')?.value).toBe(0);
    const growth = rows.find(({ what }) => what === 'resident memory: growth');
    expect(growth, 'two seconds are too short to say').toMatchObject({ value: null, unit: 'MiB a minute' });
    expect(render(rows)).toContain('resident memory: growth');
    const course = rows.filter(({ table }) => table?.startsWith('Over time'));
    expect(course.slice(0, 5).map(({ column }) => column)).toEqual(['resident', 'native', "JavaScript's heap", 'on the GPU', 'tok/s']); // biome-ignore format: one line
    const at = (name: string) => course.filter(({ column }) => column === name).at(-1)?.value ?? 0;
    expect(at('native') + at("JavaScript's heap"), 'the rest is garbage').toBeLessThan(at('resident'));
    for (const { column, value } of course) expect(value === 0, column).toBe(column === 'on the GPU');
  });

  test('startup', async () => expectFigures(await startup(context)));

  test.runIf(backend === 'cpu')('throughput', async () => {
    const rows = await throughput({ ...context, numRequests: 2 });
    expectFigures(rows);
    expect(rows.find(({ what }) => what.startsWith('all '))?.what).toBe('all 1157 tokens');
  });
});

test('wrong flags are refused by name', () => {
  const parse = (line: string) => () => parseBenchArguments(line.split(' '), ['latency', 'throughput']);
  expect(parse('--suite throughput --batch 1,16 --max-num-seqs 8')()).toMatchObject({
    suite: 'throughput',
    bench: { batch: [1, 16], shape: 'qwen3-0.6b' },
    options: { maxNumSeqs: 8 },
  });
  // The latency suite's default is recorded with its figures; serving draws lengths unless they are given.
  expect(parse('--suite latency')().bench).toEqual({ shape: 'qwen3-0.6b', inputLen: [512], repeats: 3 });
  const serving = parseBenchArguments('--suite serving --rates 0.5,2 --rates 8 --learner 7'.split(' '), ['serving']);
  expect(serving).toMatchObject({ bench: { rates: [0.5, 2, 8] }, learner: '7' });
  expect(serving.bench).not.toHaveProperty('inputLen');
  for (const [line, message] of [
    ['--suit latency', "Unknown option '--suit'. `npm run bench -- --help` lists all flags."],
    ['--suite speed', "--suite must be one of latency, throughput, got 'speed'."],
    ['--shape huge', "shape must be one of 'qwen3-0.6b', 'qwen3-1.7b', 'qwen3-4b', 'qwen3-8b', 'tiny', got \"huge\"."],
    ['--repeats 0', 'repeats must be a whole number of at least 1, got 0.'],
    ['--rates 2,0', 'rates must be an array of numbers above 0, got [2,0].'],
    ['--batch 1,two', "--batch must be an array of whole numbers of at least 1, got 'two'."],
    ['--max-model-len 9', "Unknown option '--max-model-len'. `npm run bench -- --help` lists all flags."],
  ]) {
    expect(parse(line), line).toThrow(new ConfigError(message));
  }
});

test('figures as text', () => {
  const cell = (what: string, column: string, value: number | null) =>
    ({ table: 'Ladder: GB/s', what, column, value, unit: 'GB/s' }) satisfies BenchRow;
  const rows: BenchRow[] = [
    { what: 'speed', value: 50, unit: 'tok/s', bound: 200, boundIs: 'the machine', peer: { name: 'other', value: 25 } },
    { what: 'wait', value: 3, unit: 'ms', median: 4, bound: 2, boundIs: 'the machine' },
    ...[
      cell('1 × 8', 'low', 1.5),
      cell('2 × 8', 'low', null),
      cell('1 × 8', 'bound', 2000),
      { ...cell('2 × 8', 'bound', 1999), note: 'of a part' },
    ],
  ];
  expect(render(rows).split('\n')).toEqual([
    'speed                                           50.00 tok/s  25% of 200.0 (the machine); other: 25.00',
    'wait                                            3.000 ms     median 4.000; 1.50 × 2.000 (the machine)',
    '',
    'Ladder: GB/s',
    '            low    bound',
    '1 × 8     1.500     2000',
    '2 × 8         -    1999*',
    '* of a part',
    '',
  ]);
});
