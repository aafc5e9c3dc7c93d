import { BenchEngine } from '#nano/bench/engine';
import type { BenchContext } from '#nano/bench/options';
import { nanoVllm } from '#nano/bench/peers';
import type { BenchRow } from '#nano/bench/report';
import type { Backend } from '#nano/tensor/kernels';

const MIB = 2 ** 20;

/**
 * How long requests that arrive together wait for the first token of the last of them (TTFT), and then for each further one
 * (TPOT): greedy, prompts of equal length, nothing else running.
 */
export async function latency(context: BenchContext): Promise<BenchRow[]> {
  const { shape, inputLen, repeats, limits, log } = context;
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
      const runs: Times[] = [];
      for (let i = 0; i < repeats; i++) runs.push(await measure(bench, batch, length, outputLen));
      const what = `${batch} × ${length}`;
      const first = summary(runs.map((run) => run.first));
      const next = summary(runs.map((run) => run.next));
      const operations = costs.prefillOps(Array(batch).fill(length));
      const bytes = costs.decodeBytes(batch * (length + outputLen / 2));
      const boundFirst = machine && { bound: (1e3 * operations) / machine.matrixRate, boundIs: 'prefill operations' };
      const boundNext = machine && {
        bound: (1e3 * bytes) / machine.bandwidth,
        boundIs: 'weights, keys and values read',
      };
      const peer = (figure: string) => nanoVllm(`latency ${what} ${figure} ms`, shape, backend);
      rows.push(
        { what: `${what}: first token`, ...first, unit: 'ms', ...boundFirst, ...peer('first') },
        { what: `${what}: each next token`, ...next, unit: 'ms', ...boundNext, ...peer('next') },
        { what: `${what}: prefill`, value: (1e3 * batch * length) / first.value, unit: 'tok/s' },
        { what: `${what}: decode`, value: (1e3 * batch) / next.value, unit: 'tok/s' },
      );
      log(`${what}: first ${first.value.toFixed(2)} ms, next ${next.value.toFixed(3)} ms`);
    }
  }
  if (machine) rows.push({ what: 'memory bandwidth', value: machine.bandwidth / 1e9, unit: 'GB/s' });
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

interface Times {
  /** Milliseconds. */
  readonly first: number;
  readonly next: number;
}

async function measure(bench: BenchEngine, batch: number, length: number, outputLen: number): Promise<Times> {
  const { engine, modelConfig } = bench.built;
  const random = () => Math.floor(Math.random() * modelConfig.vocabSize);
  const prompts = Array.from({ length: batch }, () => Array.from({ length }, random));
  const started = performance.now();
  for (const prompt of prompts) engine.addRequest(prompt, { temperature: 0, maxTokens: outputLen, ignoreEos: true });
  const begun = new Set<number>();
  let first = started;
  while (bench.isBusy) {
    for (const { requestId } of await bench.step()) {
      if (begun.size === batch) continue;
      begun.add(requestId);
      first = performance.now();
    }
  }
  return { first: first - started, next: (performance.now() - first) / (outputLen - 1) };
}

function summary(times: number[]): { value: number; median: number } {
  const sorted = times.sort((a, b) => a - b);
  return { value: sorted[0], median: sorted[sorted.length >> 1] };
}
