import { readFileSync } from 'node:fs';
import { getHeapStatistics } from 'node:v8';
import { CudaBackend } from '#nano/backends/cuda';
import { Collections } from '#nano/bench/collections';
import { BenchEngine } from '#nano/bench/engine';
import type { BenchContext } from '#nano/bench/options';
import { PythonRandom } from '#nano/bench/python-random';
import type { BenchRow } from '#nano/bench/report';
import { holdsZero, sliceMeans, trend } from '#nano/bench/statistics';
import { platform } from '#nano/platform';

const MIB = 2 ** 20;
/** A tenth of the time counts as one observation. */
const SLICES = 10;
/** Points of the table that shows the whole time. */
const POINTS = 40;
const MOST_OUTPUTS = 200;

/** What is looked at every second: MiB, but for the first and the last. */
const COLUMNS = ['seconds', 'resident', 'native', 'heap', 'allocated', 'onGpu', 'tokens'] as const;
type Sample = Readonly<Record<(typeof COLUMNS)[number], number>>;

/** In memory that is all there from the start: a measure of growth must not grow. */
class Samples {
  private readonly numbers: Float64Array;
  length = 0;

  constructor(private readonly most: number) {
    this.numbers = new Float64Array(most * COLUMNS.length).fill(1);
  }

  add(sample: Sample): void {
    if (this.length === this.most) return;
    this.numbers.set(
      COLUMNS.map((name) => sample[name]),
      COLUMNS.length * this.length++,
    );
  }

  all(): Sample[] {
    return Array.from({ length: this.length }, (_, i) => {
      const entries = COLUMNS.map((name, c) => [name, this.numbers[i * COLUMNS.length + c]]);
      return Object.fromEntries(entries) as Sample;
    });
  }
}

/**
 * Mixed load for a while: prompts of all lengths, some with a common beginning, greedy and sampled with all filters, some
 * aborted in the middle. Memory is looked at every second; a slope whose confidence interval holds zero is no growth. How much garbage
 * V8 lets lie is its own affair and makes resident memory breathe; a leak would show in one of two parts of it: in what collections leave of
 * JavaScript's heap, or in native memory, all that is not in that heap.
 */
export async function soak(context: BenchContext): Promise<BenchRow[]> {
  const maxModelLen = context.model ? undefined : 2048; // a model says itself how far it goes
  const bench = await BenchEngine.open(context, { maxModelLen, numKvCacheBlocks: 4096 });
  const { engine, modelConfig } = bench.built;
  const random = new PythonRandom(1);
  const prefix = Array.from({ length: 64 }, () => random.randint(0, modelConfig.vocabSize - 1));
  const longest = Math.min(1500, engine.options.maxModelLen - prefix.length - MOST_OUTPUTS);
  const running = new Set<number>();
  const addRequest = () => {
    const length = random.randint(1, random.randint(0, 9) === 0 ? longest : 300);
    const own = Array.from({ length }, () => random.randint(0, modelConfig.vocabSize - 1));
    const prompt = random.randint(0, 2) === 0 ? [...prefix, ...own] : own;
    const sampling = [
      { temperature: 0 },
      { temperature: 0.8 },
      { temperature: 0.6, topK: 20, topP: 0.95 },
      { temperature: 1, minP: 0.05 },
    ];
    const params = { ...sampling[random.randint(0, 3)], maxTokens: random.randint(1, MOST_OUTPUTS), ignoreEos: true };
    running.add(engine.addRequest(prompt, params));
  };
  const { hours, seconds = hours ? 3600 * hours : 600 } = context;
  const looks = new Samples(Math.ceil(seconds) + 1);
  const heapEvery = Math.min(30, seconds / POINTS); // seconds; longer ones have more collections to take the least of
  const collections = new Collections();
  let [numHeaps, heap] = [0, process.memoryUsage().heapUsed / MIB];
  const started = performance.now();
  const elapsed = () => (performance.now() - started) / 1000;
  while (elapsed() < seconds) {
    while (running.size < 200) addRequest();
    if (random.randint(0, 20) === 0) engine.abort([...running][random.randint(0, running.size - 1)]);
    for (const { requestId, output } of await bench.step()) if (output) running.delete(requestId);
    await platform.yieldToEventLoop();
    if (elapsed() < looks.length) continue;
    if (elapsed() >= numHeaps * heapEvery) {
      numHeaps++;
      const left = collections.leastLeft();
      if (left) heap = left / MIB; // garbage that is not yet collected is no leak
    }
    const gpu = bench.backend instanceof CudaBackend ? bench.backend.memoryInfo() : { free: 0, total: 0 };
    const resident = anonymousBytes() / MIB;
    looks.add({
      seconds: elapsed(),
      resident,
      native: resident - getHeapStatistics().total_physical_size / MIB,
      heap,
      allocated: bench.backend.allocatedBytes / MIB,
      onGpu: (gpu.total - gpu.free) / MIB,
      tokens: engine.counters.generatedTokens,
    });
  }
  const samples = looks.all();
  collections.close();
  for (const id of running) engine.abort(id);
  while (bench.isBusy) await bench.step();
  engine.checkIntegrity();
  const lost = engine.options.numKvCacheBlocks - engine.numFreeBlocks;
  const growths = [
    growth('resident memory', samples, (s) => s.resident),
    growth('native memory', samples, (s) => s.native),
    growth("JavaScript's heap", samples, (s) => s.heap),
    growth("the backend's memory", samples, (s) => s.allocated),
    growth('memory in use on the GPU', samples, (s) => s.onGpu),
  ];
  for (const { verdict } of growths) context.log(verdict);
  const rows: BenchRow[] = [
    { what: 'tokens generated', value: engine.counters.generatedTokens, unit: '' },
    { what: 'tokens a second, first half', value: rate(samples, 0, 0.5), unit: 'tok/s' },
    { what: 'tokens a second, second half', value: rate(samples, 0.5, 1), unit: 'tok/s' },
    { what: 'preemptions', value: engine.numPreemptions, unit: '' },
    { what: 'blocks not given back', value: lost, unit: '' },
    ...growths.flatMap(({ rows }) => rows),
    ...course(samples),
  ];
  await bench.close();
  return rows;
}

/** Resident memory that is no file's: pages of programs and libraries come and go as the system likes. */
function anonymousBytes(): number {
  try {
    const [, kib] = /^RssAnon:\s+(\d+) kB/m.exec(readFileSync('/proc/self/status', 'utf8')) ?? [];
    if (kib) return 1024 * Number(kib);
  } catch {} // not Linux
  return process.memoryUsage.rss();
}

function rate(samples: readonly Sample[], from: number, to: number): number {
  const at = (share: number) => samples[Math.round(share * (samples.length - 1))];
  return (at(to).tokens - at(from).tokens) / (at(to).seconds - at(from).seconds);
}

/** The whole time in some points: whether what grows also settles, no slope can tell. */
function course(samples: readonly Sample[]): BenchRow[] {
  const table = 'Over time: MiB, and tokens a second';
  const count = Math.min(POINTS, samples.length - 1);
  return Array.from({ length: count }, (_, i) => {
    const at = (k: number) => samples[Math.round((k / count) * (samples.length - 1))];
    const [before, now] = [at(i), at(i + 1)];
    const cell = (column: string, value: number): BenchRow => {
      return { table, what: `${Math.round(now.seconds)} s`, column, unit: '', value };
    };
    return [
      cell('resident', now.resident),
      cell('native', now.native),
      cell("JavaScript's heap", now.heap),
      cell('on the GPU', now.onGpu),
      cell('tok/s', (now.tokens - before.tokens) / (now.seconds - before.seconds)),
    ];
  }).flat();
}

/** MiB a minute over the second half of the time (the first fills caches), with the 95 % interval of the slope. */
function growth(what: string, samples: readonly Sample[], value: (sample: Sample) => number) {
  const late = samples.slice(Math.floor(samples.length / 2));
  const end: BenchRow = { what: `${what}: at the end`, value: value(late[late.length - 1]), unit: 'MiB' };
  const name = `${what}: growth`;
  if (late.length < SLICES) {
    const rows: BenchRow[] = [end, { what: name, value: null, unit: 'MiB a minute' }];
    return { rows, verdict: `${name}: too short a time to say` };
  }
  const points = late.map((sample) => ({ x: sample.seconds / 60, y: value(sample) }));
  const slope = trend(sliceMeans(points, SLICES));
  const unit = `± ${slope.margin.toPrecision(2)} MiB a minute`;
  const rows: BenchRow[] = [end, { what: name, value: slope.slope, unit }];
  const shown = holdsZero(slope) ? 'none is shown' : 'it is not zero';
  return { rows, verdict: `${name}: ${slope.slope.toPrecision(2)} ${unit}: ${shown}` };
}
