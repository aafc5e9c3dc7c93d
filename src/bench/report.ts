/** One measured figure. */
export interface BenchRow {
  readonly what: string;
  readonly value: number | null;
  readonly unit: string;
  /** Of several measurements, where `value` is the best. */
  readonly median?: number;
  /** What the hardware allows, where that is known: the figure is judged by its share of it. */
  readonly bound?: number;
  /** What the bound is, in words. */
  readonly boundIs?: string;
  /** The same figure of another engine. */
  readonly peer?: { readonly name: string; readonly value: number };
  /** A cell of a table: the table's heading, and the column. The rows of one heading form the table; null is '-'. */
  readonly table?: string;
  readonly column?: string;
  /** What there is instead of a value, such as OOM, or what the value leaves out. */
  readonly note?: string;
}

const TIMES = ['s', 'ms', 'µs'];
const number = (x: number): string => (x >= 1000 ? x.toFixed(0) : x.toPrecision(x < 1 ? 3 : 4));

/** All figures for people: first those that stand alone, then the tables. */
export function render(rows: readonly BenchRow[]): string {
  const lines = rows.filter(({ table }) => !table).map(line);
  const tables = [...new Set(rows.flatMap(({ table }) => table ?? []))];
  return [...lines, ...tables.flatMap((title) => grid(title, rows))].map((text) => `${text}\n`).join('');
}

function line({ what, value, unit, median, bound, boundIs, peer }: BenchRow): string {
  const notes: string[] = [];
  if (median !== undefined) notes.push(`median ${number(median)}`);
  if (bound !== undefined && value !== null) {
    const [ratio, floor] = [value / bound, `${number(bound)} (${boundIs})`];
    notes.push(TIMES.includes(unit) ? `${ratio.toFixed(2)} × ${floor}` : `${(100 * ratio).toFixed(0)}% of ${floor}`);
  }
  if (peer) notes.push(`${peer.name}: ${number(peer.value)}`);
  const figure = value === null ? '-' : number(value);
  return `${what.padEnd(44)} ${figure.padStart(8)} ${unit.padEnd(6)} ${notes.join('; ')}`.trimEnd();
}

function grid(title: string, rows: readonly BenchRow[]): string[] {
  const cells = rows.filter(({ table }) => table === title);
  const names = [...new Set(cells.map(({ what }) => what))];
  const columns = [...new Set(cells.map(({ column }) => column ?? ''))];
  const footnotes = [...new Set(cells.flatMap(({ value, note }) => (value !== null && note ? [note] : [])))];
  const cell = (what: string, column: string): string => {
    const { value = null, note } = cells.find((row) => row.what === what && row.column === column) ?? {};
    return value === null ? (note ?? '-') : number(value) + (note ? '*'.repeat(1 + footnotes.indexOf(note)) : '');
  };
  const widths = columns.map((column) => Math.max(9, column.length + 2));
  const first = Math.max(...names.map((name) => name.length)) + 1;
  const heading = columns.map((column, i) => column.padStart(widths[i])).join('');
  const body = names.map(
    (what) => what.padEnd(first) + columns.map((c, i) => cell(what, c).padStart(widths[i])).join(''),
  );
  return [
    '',
    title,
    ''.padEnd(first) + heading,
    ...body,
    ...footnotes.map((note, i) => `${'*'.repeat(i + 1)} ${note}`),
  ];
}
