import { describe, expect, test } from 'vitest';
import { platform } from '#nano/platform';
import type { FloatDType } from '#nano/tensor/dtype';
import { ATTN_BACKENDS, type AttnBackend } from '#nano/tensor/kernels';
import { ATTENTION_TOLERANCE, type AttentionCase, attentionError } from '../helpers/attention';
import { AXES, type CellOf, everything, lengthsOf, pairwise } from '../helpers/attention-matrix';
import { TEST_BACKENDS } from '../helpers/backends';

type Cell = CellOf<typeof AXES>;

/**
 * The test matrix. `npm test` runs a pairwise subset (every pair of values of every two axes meets in some cell); `npm run
 * test:matrix` runs every combination of all axes but the last two, which are drawn at random: 10,800 cells.
 */
const full = process.env.NANOVLLM_FULL_MATRIX === '1';
const cells: readonly Cell[] = full ? everything(AXES) : pairwise(AXES);

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
