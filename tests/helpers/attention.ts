import { type FloatDType, roundTo } from '#nano/tensor/dtype';
import type { AttnBackend, Backend } from '#nano/tensor/kernels';
import { Ops } from '#nano/tensor/ops';
import type { Tensor } from '#nano/tensor/tensor';
import { cumulativeLengths, padBlockTables, slotsFor } from '#nano/utils/context';
import { worstRowError } from './models';

/** One cell of the attention test matrix. */
export interface AttentionCase {
  /** New tokens and keys (new ones included) of each sequence. */
  readonly lengths: readonly { queries: number; keys: number }[];
  readonly heads: number;
  readonly kvHeads: number;
  readonly dim: number;
  readonly dtype: FloatDType;
  readonly attnBackend: AttnBackend;
  /** `decode` calls attnWithKvCache, the others attnVarlen. */
  readonly kind: 'decode' | 'paged' | 'contiguous';
  readonly blockSize: number;
  readonly seed: number;
  /** Make one early key match every query, with a large value: losing it changes each row that sees it. */
  readonly needle?: boolean;
  /** Default true. */
  readonly causal?: boolean;
}

/** Largest relative norm of a row that is allowed, against float64 over the same (rounded) keys and values. */
export const ATTENTION_TOLERANCE: Readonly<Record<FloatDType, number>> = {
  float32: 1e-5,
  float16: 2e-3,
  bfloat16: 1e-2,
};

/** Deterministic standard normal numbers (Box-Muller over a 32-bit xorshift). */
export function gaussian(seed: number): () => number {
  let state = (seed * 0x9e3779b9) | 1;
  const uniform = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32 + 2 ** -33;
  };
  for (let i = 0; i < 8; i++) uniform();
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

const PLANTED = 5; // position of the needle key

/** Runs one case on a backend; returns the worst row error and how much losing the needle would change a row at least. */
export async function attentionError(
  backend: Backend,
  c: AttentionCase,
): Promise<{ error: number; needleEffect: number }> {
  const random = gaussian(c.seed);
  const totalQ = c.lengths.reduce((sum, l) => sum + l.queries, 0);
  const totalK = c.lengths.reduce((sum, l) => sum + l.keys, 0);
  const normal = (n: number, round: FloatDType) => Float32Array.from({ length: n }, () => roundTo(round, random()));
  const direction = normal(c.dim, 'float32');
  // Queries are activations: rounded where those have 16 bits.
  const qDType = backend.activationDType(c.dtype);
  const q = normal(totalQ * c.heads * c.dim, qDType);
  const k = normal(totalK * c.kvHeads * c.dim, c.dtype);
  const v = normal(totalK * c.kvHeads * c.dim, c.dtype);
  if (c.needle) plantNeedles(c, q, k, v, direction, qDType);

  const ops = new Ops(backend, c.dtype);
  const caches = fillCache(backend, c, k, v);
  const run = (): Tensor => {
    const qTensor = ops.fromHost(q, [totalQ, c.heads, c.dim], qDType);
    const { softmaxScale, attnBackend } = { softmaxScale: 1 / Math.sqrt(c.dim), attnBackend: c.attnBackend };
    const cu = (values: number[]) => ops.fromHost(cumulativeLengths(values));
    const tables = ops.fromHost(caches.tables, [c.lengths.length, caches.width]);
    const maxSeqlenK = Math.max(1, ...c.lengths.map((l) => l.keys));
    if (c.kind === 'decode') {
      const contextLens = ops.fromHost(Int32Array.from(c.lengths, (l) => l.keys));
      const args = { contextLens, maxContextLen: maxSeqlenK, blockTables: tables, softmaxScale, attnBackend };
      return ops.attnWithKvCache(qTensor, caches.k, caches.v, args);
    }
    return ops.attnVarlen(qTensor, caches.k, caches.v, {
      cuSeqlensQ: cu(c.lengths.map((l) => l.queries)),
      cuSeqlensK: cu(c.lengths.map((l) => l.keys)),
      maxSeqlenQ: Math.max(1, ...c.lengths.map((l) => l.queries)),
      maxSeqlenK,
      blockTables: c.kind === 'paged' ? tables : null,
      causal: c.causal ?? true,
      softmaxScale,
      attnBackend,
    });
  };
  ops.reserveFor(run);
  // Poison: whatever the kernel leaves unwritten shows as NaN.
  ops.scope(() => {
    const words = Math.floor(ops.arenaBytes / 4) - 16;
    backend.write(ops.empty([words], 'float32'), new Float32Array(words).fill(NaN));
  });
  const actual = (await ops.scope(() => backend.read(run()))) as Float32Array;
  const { expected, needleEffect } = oracle(c, q, k, v);
  return { error: worstRowError(actual, expected, c.dim), needleEffect };
}

/** Every query gets a component along one direction, and one key is that direction. */
function plantNeedles(
  c: AttentionCase,
  q: Float32Array,
  k: Float32Array,
  v: Float32Array,
  direction: Float32Array,
  qDType: FloatDType,
): void {
  const norm = Math.sqrt(direction.reduce((sum, x) => sum + x * x, 0));
  for (let row = 0; row < q.length / c.dim; row++) {
    for (let i = 0; i < c.dim; i++) {
      const x = q[row * c.dim + i] + (3 * Math.sqrt(c.dim) * direction[i]) / norm;
      q[row * c.dim + i] = roundTo(qDType, x);
    }
  }
  let firstKey = 0;
  for (const { keys } of c.lengths) {
    const at = Math.min(PLANTED, keys - 1);
    for (let h = 0; h < c.kvHeads && keys > 0; h++) {
      for (let i = 0; i < c.dim; i++) {
        const index = ((firstKey + at) * c.kvHeads + h) * c.dim + i;
        k[index] = roundTo(c.dtype, (3 * Math.sqrt(c.dim) * direction[i]) / norm);
        v[index] = roundTo(c.dtype, v[index] * 3);
      }
    }
    firstKey += keys;
  }
}

/** Keys and values where the case wants them: contiguous, or scattered over shuffled cache blocks. */
function fillCache(backend: Backend, c: AttentionCase, k: Float32Array, v: Float32Array) {
  const rowLength = c.kvHeads * c.dim;
  const blocksOf = (keys: number) => Math.ceil(keys / c.blockSize);
  const numBlocks = c.lengths.reduce((sum, l) => sum + blocksOf(l.keys), 1);
  const random = gaussian(c.seed + 1);
  const order = Array.from({ length: numBlocks }, (_, id) => ({ id, key: random() }));
  const ids = order.sort((a, b) => a.key - b.key).map((entry) => entry.id);
  const tables = c.lengths.map((l) => ids.splice(0, blocksOf(l.keys)));
  const { values, width } = padBlockTables(tables);
  const place = (source: Float32Array): Tensor => {
    if (c.kind === 'contiguous') {
      const dense = backend.allocate([Math.max(1, source.length / rowLength), c.kvHeads, c.dim], c.dtype);
      if (source.length > 0) backend.write(dense, source);
      return dense;
    }
    const cache = backend.allocate([numBlocks, c.blockSize, c.kvHeads, c.dim], c.dtype);
    const host = new Float32Array(cache.numel).fill(NaN); // slots past a sequence's end must never be read
    let row = 0;
    c.lengths.forEach((l, b) => {
      for (const slot of slotsFor(tables[b], 0, l.keys, c.blockSize)) {
        host.set(source.subarray(row * rowLength, (row + 1) * rowLength), slot * rowLength);
        row++;
      }
    });
    backend.write(cache, host);
    return cache;
  };
  return { k: place(k), v: place(v), tables: values, width };
}

/** Float64 attention of a sample of query rows (all of them when there are few); others are copied as "as computed". */
function oracle(c: AttentionCase, q: Float32Array, k: Float32Array, v: Float32Array) {
  const group = c.heads / c.kvHeads;
  const expected = new Float64Array(q.length);
  let needleEffect = Infinity;
  let [query, firstKey] = [0, 0];
  for (const { queries, keys } of c.lengths) {
    for (let i = 0; i < queries; i++, query++) {
      const visible = (c.causal ?? true) && c.kind !== 'decode' ? Math.max(0, keys - queries + i + 1) : keys;
      for (let h = 0; h < c.heads; h++) {
        const at = (query * c.heads + h) * c.dim;
        const kv = (j: number) => ((firstKey + j) * c.kvHeads + Math.floor(h / group)) * c.dim;
        const weights = softmaxScores(q, at, k, kv, visible, c.dim);
        const row = expected.subarray(at, at + c.dim);
        weights.forEach((w, j) => {
          for (let d = 0; d < c.dim; d++) row[d] += w * v[kv(j) + d];
        });
        if (c.needle && visible > PLANTED + 1)
          needleEffect = Math.min(needleEffect, changeWithout(PLANTED, weights, row, v, kv));
      }
    }
    firstKey += keys;
  }
  return { expected, needleEffect };
}

function softmaxScores(
  q: Float32Array,
  at: number,
  k: Float32Array,
  kv: (j: number) => number,
  visible: number,
  dim: number,
): Float64Array {
  const scores = new Float64Array(visible);
  let max = -Infinity;
  for (let j = 0; j < visible; j++) {
    let dot = 0;
    for (let d = 0; d < dim; d++) dot += q[at + d] * k[kv(j) + d];
    scores[j] = dot / Math.sqrt(dim);
    max = Math.max(max, scores[j]);
  }
  let sum = 0;
  for (let j = 0; j < visible; j++) sum += scores[j] = Math.exp(scores[j] - max);
  return scores.map((score) => score / sum);
}

/** Relative change of a row when key `j` is dropped from the softmax: (row - w·v) / (1 - w) against row. */
function changeWithout(
  j: number,
  weights: Float64Array,
  row: Float64Array,
  v: Float32Array,
  kv: (j: number) => number,
): number {
  const w = weights[j];
  let [change, norm] = [0, 0];
  row.forEach((x, d) => {
    const without = w < 1 ? (x - w * v[kv(j) + d]) / (1 - w) : 0;
    change += (without - x) ** 2;
    norm += x * x;
  });
  return Math.sqrt(change / norm);
}
