import type { BenchRow } from '#nano/bench/report';

/** Units of which more is better, and of which less is. What has another unit is no speed. */
const [MORE, LESS] = [
  ['tok/s', 'req/s', 'GB/s', 'TFLOP/s', '×'],
  ['s', 'ms', 'µs', 'MiB'],
];

export interface Comparison {
  /** Lines for people: first what is worse, then what is better, by more than the threshold. */
  readonly lines: readonly string[];
  readonly numWorse: number;
}

/**
 * A run beside a stored one of the same suite, figure by figure. One machine's figures scatter by some percent even when nobody else
 * uses it: the threshold must be above that.
 * @param threshold 0.1: worse by more than a tenth counts.
 */
export function compareWithBaseline(
  rows: readonly BenchRow[],
  baseline: readonly BenchRow[],
  threshold: number,
): Comparison {
  const key = ({ table, what, column }: BenchRow) => [table, what, column].join(' | ');
  const before = new Map(baseline.map((row) => [key(row), row]));
  const compared = rows.flatMap((row) => {
    const old = before.get(key(row))?.value;
    if (!old || !row.value) return [];
    const sign = MORE.includes(row.unit) ? 1 : LESS.includes(row.unit) ? -1 : 0;
    // By how much it is better: twice the rate and half the time are both 1.
    const gain = sign === 0 ? 0 : (row.value / old) ** sign - 1;
    return [{ row, old, gain, loss: sign === 0 ? 0 : (row.value / old) ** -sign - 1 }];
  });
  const name = ({ table, what, column }: BenchRow) => (table ? `${table}: ${what}, ${column}` : what);
  const line = (verdict: string, { row, old }: (typeof compared)[number]) =>
    `${verdict}  ${name(row)}: ${old.toPrecision(4)} → ${row.value?.toPrecision(4)} ${row.unit}`;
  const worse = compared.filter(({ loss }) => loss > threshold).sort((a, b) => b.loss - a.loss);
  const better = compared.filter(({ gain }) => gain > threshold).sort((a, b) => b.gain - a.gain);
  const missing = baseline.filter((row) => row.value !== null && !rows.some((other) => key(other) === key(row)));
  const percent = `${(100 * threshold).toFixed(0)} %`;
  return {
    numWorse: worse.length,
    lines: [
      ...worse.map((item) => line('worse ', item)),
      ...better.map((item) => line('better', item)),
      ...missing.map((row) => `missing  ${name(row)}`),
      `${compared.length} figures compared: ${worse.length} worse and ${better.length} better by more than ${percent}.`,
    ],
  };
}
