import { meanNumber, poissonArrivals } from '#nano/bench/arrivals';
import { BenchEngine } from '#nano/bench/engine';
import type { BenchContext } from '#nano/bench/options';
import { PythonRandom } from '#nano/bench/python-random';
import type { BenchRow } from '#nano/bench/report';
import { requestTimes, serviceTimes, type Timeline } from '#nano/bench/request-times';
import { platform } from '#nano/platform';

/** Token ids of prompts, as in the throughput suite, where the model has so many. */
const VOCABULARY = 10_000;
const CHUNK = 256;
/** Shares of what is served when all requests are there at once: far from saturation, and beyond it. */
const LOADS = [0.3, 0.6, 0.9, 1.2];

interface Request {
  readonly prompt: readonly number[];
  readonly outputs: number;
}

/** A way to run the engine that is compared with others. */
interface Variant {
  readonly enablePrefixCaching: boolean;
  /** Tokens of prompts a step computes at most; undefined: prompts are never cut. */
  readonly chunk: number | undefined;
}

/**
 * Requests that come when they come (an open loop): Poisson arrivals at several rates, each with prefix caching on and off, and with
 * prompts computed in chunks or whole. All begin with the same system prompt. A request's times count from the moment it was due,
 * also where the engine was busy then.
 */
export async function serving(context: BenchContext): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  let rates = context.rates;
  for (const variant of variants(context)) {
    const name = `prefix caching ${variant.enablePrefixCaching ? 'on' : 'off'}, ${variant.chunk ? `chunks of ${variant.chunk}` : 'whole prompts'}`;
    context.log(`${name} …`);
    const bench = await open(context, variant);
    const numRequests = context.numRequests ?? (bench.backend.name === 'cuda' ? 256 : 32);
    // What is loaded and compiled on demand is so now, and the system prompt is where every later request would find it.
    const requestsOf = (seed: number, count = numRequests) =>
      workload(context, bench.built.modelConfig.vocabSize, count, seed);
    await replay(bench, requestsOf(0, Math.min(8, numRequests)), all(0));
    if (!rates) {
      const { served } = await replay(bench, requestsOf(1), all(0));
      rates = LOADS.map((share) => Number((share * served).toPrecision(2)));
      context.log(`all at once: ${served.toPrecision(3)} requests a second`);
    }
    for (const [i, rate] of rates.entries()) {
      // Other prompts for every rate: the cache would know the same ones. The same for every variant.
      const requests = requestsOf(i + 2);
      const random = new PythonRandom(1000 + i);
      const arrivals = poissonArrivals(rate, numRequests, () => random.random());
      const { figures } = await replay(bench, requests, (index) => arrivals[index]);
      const column = `${rate} req/s`;
      const table = `Serving, ${name}: by requests a second that arrive`;
      for (const [what, unit, value] of figures) rows.push({ table, what, column, unit, value });
      const [[median, , ms]] = figures;
      context.log(`${column}: ${median}: ${ms?.toPrecision(3)}`);
    }
    await bench.close();
  }
  return rows;
}

/** All four, without those that were asked not to be. */
function variants({ options }: BenchContext): Variant[] {
  const { enablePrefixCaching, maxNumBatchedTokens: chunk = CHUNK } = options;
  const caching = enablePrefixCaching === undefined ? [true, false] : [enablePrefixCaching];
  return caching.flatMap((enablePrefixCaching) => [chunk, undefined].map((chunk) => ({ enablePrefixCaching, chunk })));
}

/** A CPU serves few at a time well, and with few places a queue can be seen to form. */
const SETTINGS = {
  cuda: { maxNumSeqs: 256, wholePrompts: 16384 },
  other: { maxNumSeqs: 8, wholePrompts: 2048 },
};

function open(context: BenchContext, { enablePrefixCaching, chunk }: Variant): Promise<BenchEngine> {
  const { inputLen = [1024], outputLen = 1024, sharedLen = 256 } = context;
  const maxModelLen = sharedLen + Math.max(...inputLen) + outputLen;
  const { maxNumBatchedTokens: _, ...options } = context.options;
  return BenchEngine.open({ ...context, options: { ...options, enablePrefixCaching } }, (backend) => {
    const { maxNumSeqs, wholePrompts } = SETTINGS[backend.name === 'cuda' ? 'cuda' : 'other'];
    return { maxModelLen, maxNumSeqs, maxNumBatchedTokens: chunk ?? Math.max(maxModelLen, wholePrompts) };
  });
}

/** The system prompt is always the same, and then comes what belongs to `seed`. */
function workload(context: BenchContext, vocabSize: number, numRequests: number, seed: number): Request[] {
  const { inputLen, outputLen, sharedLen = 256 } = context;
  const last = Math.min(VOCABULARY, vocabSize - 1);
  const tokens = (random: PythonRandom, length: number) => Array.from({ length }, () => random.randint(0, last));
  const shared = tokens(new PythonRandom(2 ** 31), sharedLen);
  const random = new PythonRandom(seed);
  return Array.from({ length: numRequests }, (_, i) => {
    const length = inputLen ? inputLen[i % inputLen.length] : random.randint(100, 1024);
    const prompt = [...shared, ...tokens(random, length)];
    return { prompt, outputs: outputLen ?? random.randint(100, 1024) };
  });
}

const all = (seconds: number) => () => seconds;

type Figure = readonly [what: string, unit: string, value: number | null];

/** Sends requests at their times, as far as the engine lets one in between its steps, and waits for all. */
async function replay(bench: BenchEngine, requests: readonly Request[], secondsOf: (index: number) => number) {
  const { engine } = bench.built;
  const started = performance.now();
  const plan = requests.map((_, i) => started + 1000 * secondsOf(i));
  const timelines: (Timeline & { readonly tokensAt: number[] })[] = [];
  const running = new Map<number, number[]>();
  for (;;) {
    while (timelines.length < requests.length && plan[timelines.length] <= performance.now()) {
      const { prompt, outputs } = requests[timelines.length];
      const timeline = { arrivedAt: plan[timelines.length], sentAt: performance.now(), tokensAt: [] };
      const id = engine.addRequest(prompt, { temperature: 0.6, maxTokens: outputs, ignoreEos: true });
      running.set(id, timeline.tokensAt);
      timelines.push(timeline);
    }
    if (!bench.isBusy) {
      if (timelines.length === requests.length) break;
      await sleepUntil(plan[timelines.length]);
      continue;
    }
    const updates = await bench.step();
    const now = performance.now();
    for (const { requestId, tokenIds } of updates) for (const _ of tokenIds) running.get(requestId)?.push(now);
    await platform.yieldToEventLoop();
  }
  const duration = performance.now() - started;
  return { served: (1000 * requests.length) / duration, figures: figuresOf(timelines, duration) };
}

/** A timer may come late by a millisecond or more, so the last two are waited for in turns of the event loop. */
async function sleepUntil(time: number): Promise<void> {
  const left = () => time - performance.now();
  if (left() > 2) await new Promise((done) => setTimeout(done, left() - 2));
  while (left() > 0) await platform.yieldToEventLoop();
}

function figuresOf(timelines: readonly Timeline[], duration: number): Figure[] {
  const times = timelines.map(requestTimes);
  const { sentLate, firstToken, interToken, perToken, endToEnd } = serviceTimes(times);
  const tokens = timelines.reduce((sum, { tokensAt }) => sum + tokensAt.length, 0);
  const [waits, stays] = [times.map((request) => request.firstToken), times.map((request) => request.endToEnd)];
  const kinds = { 'first token': firstToken, 'next token': interToken, 'per token': perToken };
  return [
    ...Object.entries({ ...kinds, 'end to end': endToEnd, 'sent late': sentLate }).flatMap(([name, of]) =>
      (['p50', 'p90', 'p99'] as const).map((p) => [`${name} ${p}, ms`, 'ms', of?.[p] ?? null] as const),
    ),
    ['output, tok/s', 'tok/s', (1000 * tokens) / duration],
    ['served, requests/s', 'req/s', (1000 * timelines.length) / duration],
    ['in the system, mean', '', meanNumber(stays, duration)],
    ['without a first token, mean', '', meanNumber(waits, duration)],
    ['without a first token, at most', '', mostAtOnce(timelines)],
  ];
}

/** The largest number of requests that had come and had no token yet. */
function mostAtOnce(timelines: readonly Timeline[]): number {
  const events = timelines.flatMap(({ arrivedAt, tokensAt }) => [
    { at: arrivedAt, by: 1 },
    { at: tokensAt[0], by: -1 },
  ]);
  let [now, most] = [0, 0];
  for (const { by } of events.sort((a, b) => a.at - b.at || a.by - b.by)) most = Math.max(most, (now += by));
  return most;
}
