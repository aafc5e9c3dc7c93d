import { ATTN_BACKENDS } from '#nano/tensor/kernels';
import type { AttentionCase } from './attention';

/** What the backends that run anywhere are tested on. */
export const AXES = {
  batch: [1, 4, 16, 32],
  length: [1, 17, 128, 512, 2048, 4096],
  heads: [
    [8, 8],
    [8, 4],
    [16, 8],
    [16, 2],
    [32, 4],
  ],
  dim: [64, 80, 96, 128, 256],
  dtype: ['float32', 'float16', 'bfloat16'],
  kind: ['decode', 'paged', 'contiguous'],
  attnBackend: [...ATTN_BACKENDS],
  blockSize: [1, 16, 256],
  shape: ['whole', 'suffix', 'ragged'],
} as const;

type Axes = Readonly<Record<string, readonly unknown[]>>;
/** One value of every axis. */
export type CellOf<A extends Axes> = { [Name in keyof A]: A[Name][number] };

/** Picks cells greedily until every pair of values of every two axes is covered. */
export function pairwise<A extends Axes>(axes: A): CellOf<A>[] {
  const names = Object.keys(axes) as (keyof A & string)[];
  const open = new Set<string>();
  const key = (a: string, x: unknown, b: string, y: unknown) => `${a}=${x}|${b}=${y}`;
  names.forEach((a, i) =>
    names.slice(i + 1).forEach((b) => axes[a].forEach((x) => axes[b].forEach((y) => open.add(key(a, x, b, y))))),
  );
  const pairsOf = (cell: Partial<CellOf<A>>) =>
    names
      .flatMap((a, i) => names.slice(i + 1).map((b) => key(a, cell[a], b, cell[b])))
      .filter((pair) => open.has(pair));
  const cells: CellOf<A>[] = [];
  let state = 1;
  const random = (n: number) => (state = (state * 48271) % 2147483647) % n;
  while (open.size > 0) {
    let best: CellOf<A> | undefined;
    for (let attempt = 0; attempt < 40; attempt++) {
      const cell = Object.fromEntries(names.map((name) => [name, axes[name][random(axes[name].length)]])) as CellOf<A>;
      if (!best || pairsOf(cell).length > pairsOf(best).length) best = cell;
    }
    if (!best) break;
    for (const pair of pairsOf(best)) open.delete(pair);
    cells.push(best);
  }
  return cells;
}

/** Every combination of all axes but `blockSize` and `shape`, which go round. */
export function everything<
  A extends Axes & { readonly blockSize: readonly unknown[]; readonly shape: readonly unknown[] },
>(axes: A): CellOf<A>[] {
  const names = (Object.keys(axes) as (keyof A & string)[]).filter((name) => name !== 'blockSize' && name !== 'shape');
  const cells = names.reduce<Partial<CellOf<A>>[]>(
    (cells, name) => cells.flatMap((cell) => axes[name].map((value) => ({ ...cell, [name]: value }))),
    [{}],
  );
  return cells.map((cell, i) => ({
    ...cell,
    blockSize: axes.blockSize[(i * 7) % axes.blockSize.length],
    shape: axes.shape[(i * 5) % axes.shape.length],
  })) as CellOf<A>[];
}

/**
 * Lengths of each sequence: all alike; the last queries of each alone, as a chunk over a cached prefix; of all lengths; or
 * one, two, three keys less than the most. A long prefill is all oracle and no kernel, so where it would take seconds only its
 * last `rows` queries are computed.
 */
export function lengthsOf(
  cell: Pick<AttentionCase, 'kind'> & { batch: number; length: number; shape: 'whole' | 'suffix' | 'ragged' | 'near' },
  rows: number,
): AttentionCase['lengths'] {
  return Array.from({ length: cell.batch }, (_, b) => {
    let keys = cell.length;
    if (cell.shape === 'ragged') keys = [cell.length, 0, 1, Math.ceil(cell.length / 3)][b % 4];
    if (cell.shape === 'near') keys = Math.max(1, cell.length - (b % 4));
    const queries = cell.kind === 'decode' ? 1 : Math.min(keys, cell.shape === 'suffix' ? Math.ceil(keys / 5) : keys);
    return { keys, queries: cell.kind === 'decode' ? queries : Math.min(queries, rows) };
  });
}
