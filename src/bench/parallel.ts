import { latency } from '#nano/bench/latency';
import type { BenchContext } from '#nano/bench/options';
import type { BenchRow } from '#nano/bench/report';
import { throughput } from '#nano/bench/throughput';

const SKIP = 'NANOVLLM_SKIP_COLLECTIVES';

/**
 * The same work on different numbers of ranks: tokens a second, the time of decode steps, and what of that time is communication: how
 * much shorter the steps are when the ranks compute the same but don't exchange anything. (What they then compute is wrong.)
 */
export async function parallel(context: BenchContext): Promise<BenchRow[]> {
  const { ranks = [1, 2], batch = [1, 16, 64], log } = context;
  const rows: BenchRow[] = [];
  const cell = (table: string, what: string, column: string, unit: string, value: number) =>
    rows.push({ table, what, column, unit, value });
  const rates: number[] = [];
  for (const n of ranks) {
    const on: BenchContext = { ...context, batch, options: { ...context.options, tensorParallelSize: n } };
    const column = `${n} ${n === 1 ? 'rank' : 'ranks'}`;
    log(`${column} …`);
    const [output] = await throughput(on);
    rates.push(output.value ?? Number.NaN);
    rows.push({ ...output, what: `${output.what}, ${column}` });
    if (n !== ranks[0]) {
      const ratio = rates[rates.length - 1] / rates[0];
      rows.push({ what: `${column} against ${ranks[0]}`, value: ratio, unit: '×' });
    }
    const steps = nextTokens(await latency(on));
    for (const [what, ms] of steps) cell('Time for each next token', what, column, 'ms', ms);
    if (n === 1) continue;
    process.env[SKIP] = '1';
    try {
      for (const [what, ms] of nextTokens(await latency(on))) {
        cell('Time for each next token', what, `${column} without exchange`, 'ms', ms);
        const whole = steps.get(what) ?? Number.NaN;
        cell('Communication, % of a decode step', what, column, '%', 100 * (1 - ms / whole));
      }
    } finally {
      delete process.env[SKIP];
    }
  }
  return rows;
}

const ENDING = ': each next token';

/** Milliseconds, by requests × prompt tokens. */
function nextTokens(rows: readonly BenchRow[]): Map<string, number> {
  const steps = rows.filter(({ what }) => what.endsWith(ENDING));
  return new Map(steps.map(({ what, value }) => [what.slice(0, -ENDING.length), value ?? Number.NaN]));
}
