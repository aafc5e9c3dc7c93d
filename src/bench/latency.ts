import { floorSeconds, ridge } from '#nano/bench/costs';
import { BenchEngine } from '#nano/bench/engine';
import type { Limits } from '#nano/bench/limits';
import type { BenchContext } from '#nano/bench/options';
import { nanoVllm } from '#nano/bench/peers';
import type { BenchRow } from '#nano/bench/report';
import { type RequestTimes, requestTimes, serviceTimes } from '#nano/bench/request-times';
import { bestAndMedian } from '#nano/bench/statistics';
import type { Backend } from '#nano/tensor/kernels';

const MIB = 2 ** 20;

/**
 * How long requests that arrive together wait for the first token of the last of them (TTFT), and then for each further one
 * (TPOT): greedy, prompts of equal length, nothing else running. A table adds the distribution of all gaps between tokens, and how
 * long whole requests took.
 */
export async function latency(context: BenchContext): Promise<BenchRow[]> {
  const { shape, inputLen = [512], repeats, limits, log } = context;
  const machine = limits();
  const batchesOn = ({ name }: Backend) => context.batch ?? (name === 'cuda' ? [1, 16, 64] : [1]);
  const outputsOn = ({ name }: Backend) => context.outputLen ?? (name === 'cuda' ? 128 : 32);
  const bench = await BenchEngine.open(context, (backend) => ({
    enablePrefixCaching: false,
    maxNumSeqs: Math.max(...batchesOn(backend)),
    maxModelLen: Math.max(...inputLen) + outputsOn(backend),
  }));
  const { backend, built, costs } = bench;
  const outputLen = outputsOn(backend);
  const rows: BenchRow[] = [];
  await measure(bench, 1, inputLen[0], 2); // the first request of a process also pays for what is loaded on demand
  for (const batch of batchesOn(backend)) {
    for (const length of inputLen) {
      const runs: Run[] = [];
      for (let i = 0; i < repeats; i++) runs.push(await measure(bench, batch, length, outputLen));
      const what = `${batch} × ${length}`;
      const first = bestAndMedian(runs.map((run) => run.first));
      const next = bestAndMedian(runs.map((run) => run.next));
      const contexts = batch * (length + outputLen / 2); // on average over the steps
      const prefill = [costs.prefillBytes(batch * length), costs.prefillOps(Array(batch).fill(length))] as const;
      const decode = [costs.decodeBytes(contexts), costs.decodeOps(batch, contexts)] as const;
      const boundFirst = floor(prefill, machine, 'weights read, keys and values written', 'prefill operations');
      const boundNext = floor(decode, machine, 'weights, keys and values read', 'decode operations');
      const peer = (figure: string) => nanoVllm(`latency ${what} ${figure} ms`, shape, backend);
      rows.push(
        { what: `${what}: first token`, ...first, unit: 'ms', ...boundFirst, ...peer('first') },
        { what: `${what}: each next token`, ...next, unit: 'ms', ...boundNext, ...peer('next') },
        { what: `${what}: prefill`, value: (1e3 * batch * length) / first.value, unit: 'tok/s' },
        { what: `${what}: decode`, value: (1e3 * batch) / next.value, unit: 'tok/s' },
        ...distribution(what, runs),
      );
      log(`${what}: first ${first.value.toFixed(2)} ms, next ${next.value.toFixed(3)} ms`);
    }
  }
  if (machine) {
    rows.push({ what: 'memory bandwidth', value: machine.bandwidth / 1e9, unit: 'GB/s' });
    rows.push({ what: 'matrix products', value: machine.matrixRate / 1e12, unit: 'TFLOP/s' });
  }
  if (backend.name !== 'cuda') {
    const kvBytes = backend.allocatedBytes - built.weightBytes - built.ops.arenaBytes;
    rows.push({
      what: 'peak resident size',
      value: process.resourceUsage().maxRSS / 1024,
      unit: 'MiB',
      bound: (1.3 * built.weightBytes + kvBytes + 150e6) / MIB,
      boundIs: '1.3 × weights + KV cache + 150 MB, not to be exceeded',
    });
  }
  await bench.close();
  return rows;
}

/** What the hardware allows, in milliseconds, and by which of its limits. */
function floor(
  [bytes, operations]: readonly [bytes: number, operations: number],
  machine: Limits | undefined,
  byMemory: string,
  byArithmetic: string,
): Pick<BenchRow, 'bound' | 'boundIs'> {
  if (!machine) return {};
  const boundIs = operations / bytes < ridge(machine) ? byMemory : byArithmetic;
  return { bound: 1e3 * floorSeconds(bytes, operations, machine), boundIs };
}

/** Over all requests of all runs. */
function distribution(what: string, runs: readonly Run[]): BenchRow[] {
  const { interToken, endToEnd } = serviceTimes(runs.flatMap(({ requests }) => requests));
  const table = 'Distribution over tokens and over requests: ms, by requests × prompt tokens';
  return Object.entries({ 'next token': interToken, 'end to end': endToEnd }).flatMap(([name, of]) =>
    Object.entries(of ?? {}).map(([p, value]) => ({ table, what, column: `${name} ${p}`, unit: 'ms', value })),
  );
}

interface Run {
  /** Milliseconds until every request had its first token, and then for each further one. */
  readonly first: number;
  readonly next: number;
  readonly requests: readonly RequestTimes[];
}

async function measure(bench: BenchEngine, batch: number, length: number, outputLen: number): Promise<Run> {
  const { engine, modelConfig } = bench.built;
  const random = () => Math.floor(Math.random() * modelConfig.vocabSize);
  const prompts = Array.from({ length: batch }, () => Array.from({ length }, random));
  const tokensAt = new Map<number, number[]>();
  const started = performance.now();
  for (const prompt of prompts) {
    tokensAt.set(engine.addRequest(prompt, { temperature: 0, maxTokens: outputLen, ignoreEos: true }), []);
  }
  while (bench.isBusy) {
    const updates = await bench.step();
    const now = performance.now();
    for (const { requestId } of updates) tokensAt.get(requestId)?.push(now);
  }
  const ended = performance.now();
  const first = Math.max(...[...tokensAt.values()].map(([at]) => at));
  return {
    first: first - started,
    next: (ended - first) / (outputLen - 1),
    requests: [...tokensAt.values()].map((times) =>
      requestTimes({ arrivedAt: started, sentAt: started, tokensAt: times }),
    ),
  };
}
