import { describe, expect, test } from 'vitest';
import { platform } from '#nano/platform';
import type { FloatDType } from '#nano/tensor/dtype';
import { ATTN_BACKENDS, type AttnBackend } from '#nano/tensor/kernels';
import { ATTENTION_TOLERANCE, type AttentionCase, attentionError } from '../helpers/attention';
import { TEST_BACKENDS } from '../helpers/backends';

/**
 * The test matrix. `npm test` runs a pairwise subset (every pair of values of every two axes meets in some cell); `npm run
 * test:matrix` runs every combination of all axes but the last two, which are drawn at random: 10,800 cells.
 */
const AXES = {
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

type Axis = keyof typeof AXES;
type Cell = { [A in Axis]: (typeof AXES)[A][number] };

/** Picks cells greedily until every pair of values of every two axes is covered. */
function pairwise(): Cell[] {
  const names = Object.keys(AXES) as Axis[];
  const open = new Set<string>();
  const key = (a: Axis, x: unknown, b: Axis, y: unknown) => `${a}=${x}|${b}=${y}`;
  names.forEach((a, i) =>
    names.slice(i + 1).forEach((b) => AXES[a].forEach((x) => AXES[b].forEach((y) => open.add(key(a, x, b, y))))),
  );
  const pairsOf = (cell: Partial<Cell>) =>
    names
      .flatMap((a, i) => names.slice(i + 1).map((b) => key(a, cell[a], b, cell[b])))
      .filter((pair) => open.has(pair));
  const cells: Cell[] = [];
  let state = 1;
  const random = (n: number) => (state = (state * 48271) % 2147483647) % n;
  while (open.size > 0) {
    let best: Cell | undefined;
    for (let attempt = 0; attempt < 40; attempt++) {
      const cell = Object.fromEntries(names.map((name) => [name, AXES[name][random(AXES[name].length)]])) as Cell;
      if (!best || pairsOf(cell).length > pairsOf(best).length) best = cell;
    }
    if (!best) break;
    for (const pair of pairsOf(best)) open.delete(pair);
    cells.push(best);
  }
  return cells;
}

function everything(): Cell[] {
  const names = (Object.keys(AXES) as Axis[]).filter((name) => name !== 'blockSize' && name !== 'shape');
  const cells = names.reduce<Partial<Cell>[]>(
    (cells, name) => cells.flatMap((cell) => AXES[name].map((value) => ({ ...cell, [name]: value }))),
    [{}],
  );
  return cells.map((cell, i) => ({
    ...cell,
    blockSize: AXES.blockSize[(i * 7) % 3],
    shape: AXES.shape[(i * 5) % 3],
  })) as Cell[];
}

/**
 * Lengths of each sequence. A long prefill is all oracle and no kernel, so where it would take seconds only its last queries
 * are computed, as a chunk over a cached prefix.
 */
function lengthsOf(cell: Cell, rows: number): AttentionCase['lengths'] {
  return Array.from({ length: cell.batch }, (_, b) => {
    const keys = cell.shape === 'ragged' ? [cell.length, 0, 1, Math.ceil(cell.length / 3)][b % 4] : cell.length;
    const queries = cell.kind === 'decode' ? 1 : Math.min(keys, cell.shape === 'suffix' ? Math.ceil(keys / 5) : keys);
    return { keys, queries: cell.kind === 'contiguous' || cell.kind === 'paged' ? Math.min(queries, rows) : queries };
  });
}

const full = process.env.NANOVLLM_FULL_MATRIX === '1';
const cells = full ? everything() : pairwise();

describe.each(TEST_BACKENDS)('attention on %s', (backendName) => {
  test(`${cells.length} cells of the matrix against float64`, { timeout: full ? 36_000_000 : 240_000 }, async () => {
    const worst: Partial<Record<FloatDType, number>> = {};
    for (const [i, cell] of cells.entries()) {
      // The batch is cut to what can be drawn in reasonable time, and the queries to sampled rows.
      const [queryHeads, keyHeads] = cell.heads;
      const elements = cell.length * keyHeads * cell.dim;
      const batch = (
        full ? cell.batch : Math.max(1, Math.min(cell.batch, Math.floor(1e6 / elements)))
      ) as Cell['batch'];
      const work = batch * cell.length * queryHeads * cell.dim;
      const rows = Math.max(1, Math.floor((backendName === 'reference' ? 8e6 : 2e7) / work));
      const lengths = lengthsOf({ ...cell, batch }, rows);
      const { dim, dtype, kind, attnBackend, blockSize } = cell;
      const backend = platform.createBackend(backendName);
      const needle = i % 2 === 0;
      const c: AttentionCase = {
        lengths,
        heads: queryHeads,
        kvHeads: keyHeads,
        dim,
        dtype,
        kind,
        attnBackend,
        blockSize,
        needle,
        seed: i + 1,
      };
      const { error, needleEffect } = await attentionError(backend, c);
      backend.close();
      worst[dtype] = Math.max(worst[dtype] ?? 0, error);
      expect(error, JSON.stringify({ ...c, lengths: lengths.slice(0, 4) })).toBeLessThan(ATTENTION_TOLERANCE[dtype]);
      expect(needleEffect, 'a planted key must matter').toBeGreaterThan(0.1);
    }
    console.log(`${backendName}: largest relative row error over ${cells.length} cells`, worst);
  });

  test.each(ATTN_BACKENDS)('%s: contiguous prefill without a causal mask', async (attnBackend) => {
    const backend = platform.createBackend(backendName);
    const lengths = [
      { queries: 5, keys: 40 },
      { queries: 0, keys: 0 },
      { queries: 33, keys: 33 },
    ];
    const shape = {
      lengths,
      heads: 4,
      kvHeads: 2,
      dim: 64,
      dtype: 'float32',
      kind: 'contiguous',
      blockSize: 16,
    } as const;
    const { error } = await attentionError(backend, { ...shape, attnBackend, seed: 9, causal: false });
    expect(error).toBeLessThan(ATTENTION_TOLERANCE.float32);
    backend.close();
  });

  test.each<[AttnBackend, 'decode' | 'paged']>([
    ['flash', 'decode'],
    ['flash', 'paged'],
    ['sdpa.math', 'decode'],
    ['sdpa.math', 'paged'],
  ])('%s %s accepts a batch whose context lengths are all 0', async (attnBackend, kind) => {
    const backend = platform.createBackend(backendName);
    const lengths = [
      { queries: 1, keys: 0 },
      { queries: 1, keys: 0 },
    ];
    const shape = { lengths, heads: 4, kvHeads: 2, dim: 64, dtype: 'bfloat16', blockSize: 16, seed: 3 } as const;
    expect((await attentionError(backend, { ...shape, attnBackend, kind })).error).toBe(0);
    backend.close();
  });
});
