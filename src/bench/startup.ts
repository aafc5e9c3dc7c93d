import { BenchEngine } from '#nano/bench/engine';
import type { BenchContext } from '#nano/bench/options';
import { nanoVllm } from '#nano/bench/peers';
import type { BenchRow } from '#nano/bench/report';

/** From the start of this process to its first token: Node, device, random weights, captured decode steps, a short prompt. */
export async function startup(context: BenchContext): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  // performance.now() counts from the start of the process.
  const reached = (what: string, more: Partial<BenchRow> = {}) =>
    rows.push({ what, value: performance.now() / 1000, unit: 's', ...more });
  reached('program loaded');
  const bench = await BenchEngine.open(context, { maxModelLen: 4096 });
  const { engine } = bench.built;
  reached(`engine ready for up to ${engine.options.maxNumSeqs} sequences`);
  engine.addRequest([1, 2, 3], { temperature: 0, maxTokens: 1, ignoreEos: true });
  while (bench.isBusy) await bench.step();
  reached('first token', nanoVllm('startup s', context.shape, bench.backend));
  await bench.close();
  return rows;
}
