import { performance } from 'node:perf_hooks';
import { BenchEngine } from '#nano/bench/engine';
import type { BenchContext } from '#nano/bench/options';
import { nanoVllm } from '#nano/bench/peers';
import { PythonRandom } from '#nano/bench/python-random';
import type { BenchRow } from '#nano/bench/report';

interface Workload {
  readonly prompt: readonly number[];
  readonly outputs: number;
}

/** The requests of nano-vllm's bench.py, drawn in its order: all prompts, then all output lengths, each 100 to 1024. */
export function nanoVllmWorkload(numRequests: number): Workload[] {
  const random = new PythonRandom(0);
  const times = <T>(n: number, draw: () => T) => Array.from({ length: n }, draw);
  const prompts = times(256, () => times(random.randint(100, 1024), () => random.randint(0, 10000)));
  return prompts.map((prompt) => ({ prompt, outputs: random.randint(100, 1024) })).slice(0, numRequests);
}

/** Seconds of decode steps by their batch, and the bytes they had to read. */
class DecodeSteps {
  private readonly groups = new Map<number, { steps: number; seconds: number; bytes: number; tokens: number }>();

  add(batch: number, seconds: number, bytes: number): void {
    const top = 2 ** Math.ceil(Math.log2(batch));
    const group = this.groups.get(top) ?? { steps: 0, seconds: 0, bytes: 0, tokens: 0 };
    this.groups.set(top, group);
    group.steps++;
    group.seconds += seconds;
    group.bytes += bytes;
    group.tokens += batch;
  }

  get bytes(): number {
    return [...this.groups.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  }

  rows(bandwidth: number | undefined): BenchRow[] {
    const sorted = [...this.groups].sort(([a], [b]) => b - a);
    return sorted.flatMap(([top, { steps, seconds, bytes, tokens }]) => {
      const cell = (column: string, unit: string, value: number | null) => ({
        table: 'Decode steps by the number of sequences in them',
        what: `${(top >> 1) + 1} to ${top}`,
        column,
        unit,
        value,
      });
      return [
        cell('steps', '', steps),
        cell('seconds', 's', seconds),
        cell('ms a step', 'ms', (1e3 * seconds) / steps),
        cell('bound', 'ms', bandwidth ? (1e3 * bytes) / bandwidth / steps : null),
        cell('tok/s', 'tok/s', tokens / seconds),
      ];
    });
  }
}

/** Everything at once: requests of very different lengths, all there from the start. What counts is when the last is done. */
export async function throughput(context: BenchContext): Promise<BenchRow[]> {
  const machine = context.limits();
  const bench = await BenchEngine.open(context, { maxModelLen: 4096 });
  const { backend, built, costs } = bench;
  const { engine } = built;
  engine.addRequest([1, 2, 3], { temperature: 0.6, maxTokens: 3, ignoreEos: true });
  while (bench.isBusy) await bench.step(); // what is loaded on demand is loaded now

  const workload = nanoVllmWorkload(context.numRequests ?? (backend.name === 'cuda' ? 256 : 8));
  const warmedUp = { ...engine.counters };
  const steps = new DecodeSteps();
  const lengths = new Map<number, number>();
  const [started, loop] = [performance.now(), performance.eventLoopUtilization()];
  for (const { prompt, outputs } of workload) {
    const id = engine.addRequest(prompt, { temperature: 0.6, maxTokens: outputs, ignoreEos: true });
    lengths.set(id, prompt.length);
  }
  while (bench.isBusy) {
    const { decodeSeconds } = engine.counters;
    const updates = await bench.step();
    const tokens = updates.reduce((sum, { requestId }) => sum + (lengths.get(requestId) ?? 0), 0);
    const seconds = engine.counters.decodeSeconds - decodeSeconds;
    if (seconds > 0) steps.add(updates.length, seconds, costs.decodeBytes(tokens));
    for (const { requestId } of updates) lengths.set(requestId, (lengths.get(requestId) ?? 0) + 1);
  }
  const seconds = (performance.now() - started) / 1000;
  const { active } = performance.eventLoopUtilization(loop);

  const since = (name: keyof typeof warmedUp) => engine.counters[name] - warmedUp[name];
  const outputs = workload.reduce((sum, request) => sum + request.outputs, 0);
  if (since('generatedTokens') !== outputs) throw new Error(`${since('generatedTokens')} tokens came, not ${outputs}.`);
  const prefillBound = machine && costs.prefillOps(workload.map(({ prompt }) => prompt.length)) / machine.matrixRate;
  const decodeBound = machine && steps.bytes / machine.bandwidth;
  const total = machine && prefillBound! + decodeBound!;
  const floor = (bound: number | undefined, boundIs: string) => (bound === undefined ? {} : { bound, boundIs });
  const peer = nanoVllm(`throughput ${workload.length} requests tok/s`, context.shape, backend);
  const rows: BenchRow[] = [
    {
      what: `output of ${workload.length} requests`,
      value: outputs / seconds,
      unit: 'tok/s',
      ...floor(total && outputs / total, 'the two bounds below'),
      ...peer,
    },
    { what: `all ${outputs} tokens`, value: seconds, unit: 's', ...floor(total, 'the two bounds below') },
    { what: 'prefill', value: since('prefillSeconds'), unit: 's', ...floor(prefillBound, 'its operations') },
    {
      what: 'decode',
      value: since('decodeSeconds'),
      unit: 's',
      ...floor(decodeBound, 'weights, keys and values read'),
    },
    { what: 'JavaScript at work', value: active / 1000, unit: 's' },
    { what: 'steps', value: since('steps'), unit: '' },
    { what: 'preemptions', value: engine.numPreemptions, unit: '' },
    ...steps.rows(machine?.bandwidth),
  ];
  await bench.close();
  return rows;
}
