import { CudaBackend } from '#nano/backends/cuda';
import { isOutOfMemory } from '#nano/bench/backends';
import { BenchEngine } from '#nano/bench/engine';
import type { BenchContext } from '#nano/bench/options';
import type { BenchRow } from '#nano/bench/report';
import { SHAPES } from '#nano/bench/shapes';
import { ConfigError } from '#nano/errors';
import type { ModelConfig } from '#nano/models/model-config';
import { ATTN_BACKENDS, type AttnBackend } from '#nano/tensor/kernels';

const MIB = 2 ** 20;
/** Tokens a prefill step computes at most. */
const STEP = 2048;

/**
 * What a step needs beside weights and cache, as requests get longer: the paged kernels keep one tile, the dense baseline gathers every
 * key and value and writes down every score. Each length is also run, one request of it, so that what is counted is also used.
 */
export async function memory(context: BenchContext): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  const { batch, inputLen } = context;
  for (const attnBackend of ATTN_BACKENDS) {
    const lengths = inputLen ?? [1024, 2048, 4096, 8192];
    for (const length of lengths) {
      checkLength(context, length);
      const requests = batch?.[0] ?? 16;
      const what = `${requests} × ${length}`;
      const row = (column: string, bytes: number | null, note?: string) =>
        rows.push({ table: TABLE, what, column, unit: 'MiB', value: bytes && bytes / MIB, ...(note && { note }) });
      try {
        const { temporary, predicted, used } = await measure(context, attnBackend, requests, length);
        row(attnBackend, temporary);
        if (attnBackend === 'sdpa.math') row('its gather and scores, by the formula', predicted);
        row(`${attnBackend}: all in use`, used);
        context.log(`${what}, ${attnBackend}: ${(temporary / MIB).toFixed(0)} MiB`);
      } catch (error) {
        if (!isOutOfMemory(error)) throw error;
        row(attnBackend, null, 'OOM');
      }
    }
  }
  return rows;
}

const TABLE = 'Temporary memory of a step, MiB, by requests at once × tokens each';

function checkLength({ shape }: BenchContext, length: number): void {
  const { max_position_embeddings: limit } = SHAPES[shape];
  if (length <= limit) return;
  throw new ConfigError(`--input-len ${length}: ${shape} has ${limit} positions. Use at most ${limit}.`);
}

/** Bytes. */
async function measure(context: BenchContext, attnBackend: AttnBackend, requests: number, length: number) {
  const { options } = context;
  const settings = {
    maxModelLen: length,
    maxNumSeqs: requests,
    maxNumBatchedTokens: STEP,
    kvCacheBlockSize: 16,
    numKvCacheBlocks: requests * Math.ceil(length / 16),
  };
  const bench = await BenchEngine.open(
    { ...context, log: () => {}, options: { ...settings, ...options, attnBackend } },
    {},
  );
  try {
    const { engine, ops, modelConfig } = bench.built;
    engine.addRequest(new Array(length - 2).fill(1), { temperature: 0, maxTokens: 2, ignoreEos: true });
    while (bench.isBusy) await bench.step();
    const used =
      bench.backend instanceof CudaBackend
        ? bench.backend.memoryInfo().total - bench.backend.memoryInfo().free
        : process.memoryUsage.rss();
    return { temporary: ops.arenaBytes, predicted: denseBytes(modelConfig, requests, length), used };
  } finally {
    await bench.close();
  }
}

/**
 * What `sdpa.math` holds at once, float32. Decode gathers every request, for one query each; prefill one request, for as many queries as a
 * step computes: 2·W·L·Hkv·D keys and values, W·Hq·Q·L scores.
 */
export function denseBytes(model: ModelConfig, requests: number, length: number): number {
  const { numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim } = model;
  const floats = (gathered: number, queries: number) => gathered * length * (2 * kvHeads * headDim + heads * queries);
  return 4 * Math.max(floats(requests, 1), floats(1, Math.min(STEP, length)));
}
