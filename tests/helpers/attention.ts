import { type FloatDType, roundTo } from '#nano/tensor/dtype';
import type { AttnBackend, Backend } from '#nano/tensor/kernels';
import { Ops } from '#nano/tensor/ops';
import { Tensor } from '#nano/tensor/tensor';
import { cumulativeLengths, padBlockTables } from '#nano/utils/context';
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
  /**
   * Make one early key match every query, with a large value: losing it changes each row that sees it. `many`: up to eight
   * keys, the first and the last among them; losing any one shows.
   */
  readonly needle?: boolean | 'many';
  /** Default true. */
  readonly causal?: boolean;
  /** The most keys the kernel is told to expect; default: what the longest sequence has. */
  readonly maxKeys?: number;
}

/** Numbers for the inputs: so many standard normal ones, rounded. */
export type Normals = (count: number, dtype: FloatDType) => Float32Array;

/** What a case is computed from, on the host. */
export interface AttentionInputs {
  /** `[T, Hq, D]` */
  readonly q: Float32Array;
  readonly qDType: FloatDType;
  /** `[all keys, Hkv, D]` */
  readonly k: Float32Array;
  readonly v: Float32Array;
  /** Keys (and new ones' queries) of sequence b lie in these blocks of the cache. */
  readonly tables: readonly (readonly number[])[];
  readonly numBlocks: number;
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

/** Runs one case on a backend; returns the worst row error and how much losing a needle would change a row at least. */
export async function attentionError(
  backend: Backend,
  c: AttentionCase,
): Promise<{ error: number; needleEffect: number }> {
  const random = gaussian(c.seed);
  const inputs = drawInputs(c, backend.activationDType(c.dtype), (count, dtype) =>
    Float32Array.from({ length: count }, () => roundTo(dtype, random())),
  );
  const keys = placeKeys(backend, c, inputs);
  const actual = await runAttention(new Ops(backend, c.dtype), c, inputs, keys);
  const { rows, needleEffect } = expectedRows(c, inputs, everyRow(c));
  return { error: worstError(c, actual, rows), needleEffect };
}

/** Queries, keys and values of a case. Queries are activations: rounded where those have 16 bits. */
export function drawInputs(c: AttentionCase, qDType: FloatDType, normals: Normals): AttentionInputs {
  const totalQ = c.lengths.reduce((sum, l) => sum + l.queries, 0);
  const totalK = c.lengths.reduce((sum, l) => sum + l.keys, 0);
  const direction = normals(c.dim, 'float32');
  const q = normals(totalQ * c.heads * c.dim, qDType);
  const k = normals(totalK * c.kvHeads * c.dim, c.dtype);
  const v = normals(totalK * c.kvHeads * c.dim, c.dtype);
  if (c.needle) plantNeedles(c, q, k, v, direction, qDType);
  const blocksOf = (keys: number) => Math.ceil(keys / c.blockSize);
  const numBlocks = c.lengths.reduce((sum, l) => sum + blocksOf(l.keys), 1);
  const random = gaussian(c.seed + 1);
  const order = Array.from({ length: numBlocks }, (_, id) => ({ id, key: random() }));
  const ids = order.sort((a, b) => a.key - b.key).map((entry) => entry.id);
  let used = 0;
  const tables = c.lengths.map((l) => ids.slice(used, (used += blocksOf(l.keys))));
  return { q, qDType, k, v, tables, numBlocks };
}

/** Keys and values in a backend's memory. */
export interface PlacedKeys {
  readonly k: Tensor;
  readonly v: Tensor;
  free(): void;
}

/** Keys and values where the case wants them: contiguous, or scattered over shuffled cache blocks. */
export function placeKeys(
  backend: Backend,
  c: AttentionCase,
  { k, v, tables, numBlocks }: AttentionInputs,
): PlacedKeys {
  const rowLength = c.kvHeads * c.dim;
  const scatter = (source: Float32Array): Float32Array => {
    // Slots past a sequence's end must never be read.
    const host = new Float32Array(numBlocks * c.blockSize * rowLength).fill(NaN);
    let row = 0;
    c.lengths.forEach(({ keys }, b) => {
      for (let first = 0; first < keys; first += c.blockSize) {
        const count = Math.min(c.blockSize, keys - first);
        const block = tables[b][first / c.blockSize];
        host.set(source.subarray(row * rowLength, (row + count) * rowLength), block * c.blockSize * rowLength);
        row += count;
      }
    });
    return host;
  };
  const place = (source: Float32Array) => {
    const dense = c.kind === 'contiguous';
    const shape = dense
      ? [Math.max(1, source.length / rowLength), c.kvHeads, c.dim]
      : [numBlocks, c.blockSize, c.kvHeads, c.dim];
    const numel = shape.reduce((a, b) => a * b, 1);
    const memory = backend.reserveArena(backend.bytesOf(numel, c.dtype));
    const tensor = new Tensor(memory.storageAt(0, numel, c.dtype), shape, c.dtype);
    if (source.length > 0) backend.write(tensor, dense ? source : scatter(source));
    return { tensor, memory };
  };
  const [placedK, placedV] = [place(k), place(v)];
  const free = () => [placedK, placedV].forEach(({ memory }) => memory.free());
  return { k: placedK.tensor, v: placedV.tensor, free };
}

/** The attention of a case, `[T, Hq, D]`, computed by the backend of `ops`. What its kernel leaves unwritten is NaN. */
export async function runAttention(
  ops: Ops,
  c: AttentionCase,
  inputs: AttentionInputs,
  keys: Pick<PlacedKeys, 'k' | 'v'>,
): Promise<Float32Array> {
  const { q, qDType } = inputs;
  const { values, width } = padBlockTables(inputs.tables);
  const run = (): Tensor => {
    const qTensor = ops.fromHost(q, [q.length / (c.heads * c.dim), c.heads, c.dim], qDType);
    const { softmaxScale, attnBackend } = { softmaxScale: 1 / Math.sqrt(c.dim), attnBackend: c.attnBackend };
    const cu = (values: number[]) => ops.fromHost(cumulativeLengths(values));
    const tables = ops.fromHost(values, [c.lengths.length, width]);
    const maxSeqlenK = c.maxKeys ?? Math.max(1, ...c.lengths.map((l) => l.keys));
    if (c.kind === 'decode') {
      const contextLens = ops.fromHost(Int32Array.from(c.lengths, (l) => l.keys));
      const args = { contextLens, maxContextLen: maxSeqlenK, blockTables: tables, softmaxScale, attnBackend };
      return ops.attnWithKvCache(qTensor, keys.k, keys.v, args);
    }
    return ops.attnVarlen(qTensor, keys.k, keys.v, {
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
  poison(ops);
  return (await ops.scope(() => ops.backend.read(run()))) as Float32Array;
}

/** Fills the arena with NaN. */
function poison(ops: Ops): void {
  const words = Math.floor(ops.arenaBytes / 4) - 16;
  const nan = new Float32Array(Math.min(words, 1 << 20)).fill(NaN);
  ops.scope(() => {
    for (let left = words - (words % 16); left > 0; left -= nan.length) {
      const part = Math.min(left, nan.length);
      ops.backend.write(ops.empty([part], 'float32'), nan.subarray(0, part));
    }
  });
}

/** Where the needles of a sequence are. */
function needlesOf(c: AttentionCase, keys: number): number[] {
  if (!c.needle || keys === 0) return [];
  if (c.needle !== 'many') return [Math.min(5, keys - 1)];
  const random = gaussian(c.seed + 2);
  const inside = Array.from({ length: 6 }, () => Math.floor(keys * Math.abs(Math.sin(random()))));
  return [...new Set([0, keys - 1, ...inside])];
}

/** Every query gets a component along one direction, and the needles are that direction. */
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
    for (const at of needlesOf(c, keys)) {
      for (let h = 0; h < c.kvHeads; h++) {
        for (let i = 0; i < c.dim; i++) {
          const index = ((firstKey + at) * c.kvHeads + h) * c.dim + i;
          k[index] = roundTo(c.dtype, (3 * Math.sqrt(c.dim) * direction[i]) / norm);
          v[index] = roundTo(c.dtype, v[index] * 3);
        }
      }
    }
    firstKey += keys;
  }
}

/** One query of one sequence, as seen by one head. */
interface RowId {
  readonly sequence: number;
  readonly query: number;
  readonly head: number;
}

export function* everyRow(c: AttentionCase): Generator<RowId> {
  for (const [sequence, { queries }] of c.lengths.entries()) {
    for (let query = 0; query < queries; query++) {
      for (let head = 0; head < c.heads; head++) yield { sequence, query, head };
    }
  }
}

/** So many rows at random, and the first and the last query of the first and the last sequence that has any. */
export function* someRows(c: AttentionCase, count: number): Generator<RowId> {
  const withQueries = [...c.lengths.keys()].filter((b) => c.lengths[b].queries > 0);
  const random = gaussian(c.seed + 3);
  const below = (n: number) => Math.floor(n * (Math.abs(random() * 1000) % 1));
  for (const sequence of [withQueries[0], withQueries[withQueries.length - 1]]) {
    if (sequence === undefined) return;
    for (const query of [0, c.lengths[sequence].queries - 1]) yield { sequence, query, head: below(c.heads) };
  }
  for (let i = 0; i < count; i++) {
    const sequence = withQueries[below(withQueries.length)];
    yield { sequence, query: below(c.lengths[sequence].queries), head: below(c.heads) };
  }
}

interface ExpectedRow extends RowId {
  /** Where the row begins in the output. */
  readonly at: number;
  readonly values: Float64Array;
}

/** Float64 attention of some rows, and how much losing a needle would change one of them at least. */
export function expectedRows(
  c: AttentionCase,
  { q, k, v }: AttentionInputs,
  ids: Iterable<RowId>,
): { rows: ExpectedRow[]; needleEffect: number } {
  const group = c.heads / c.kvHeads;
  const stride = c.kvHeads * c.dim;
  const firstQuery = cumulativeLengths(c.lengths.map((l) => l.queries));
  const firstKey = cumulativeLengths(c.lengths.map((l) => l.keys));
  const needles = c.lengths.map(({ keys }) => needlesOf(c, keys));
  const rows: ExpectedRow[] = [];
  let needleEffect = Infinity;
  for (const { sequence, query, head } of ids) {
    const { queries, keys } = c.lengths[sequence];
    const visible = (c.causal ?? true) && c.kind !== 'decode' ? Math.max(0, keys - queries + query + 1) : keys;
    const at = ((firstQuery[sequence] + query) * c.heads + head) * c.dim;
    const first = firstKey[sequence] * stride + Math.floor(head / group) * c.dim;
    const weights = softmaxScores(q.subarray(at, at + c.dim), k, first, stride, visible);
    const values = weightedSum(weights, v, first, stride, c.dim);
    for (const needle of needles[sequence]) {
      // Among fewer keys losing one always shows, or leaves nothing.
      if (needle < visible && visible > 6) {
        needleEffect = Math.min(needleEffect, changeWithout(weights[needle], values, v, first + needle * stride));
      }
    }
    rows.push({ sequence, query, head, at, values });
  }
  return { rows, needleEffect };
}

/** The largest relative norm of a row's error. */
export function worstError(c: AttentionCase, actual: Float32Array, rows: readonly ExpectedRow[]): number {
  return rows.reduce((worst, { at, values }) => {
    return Math.max(worst, worstRowError(actual.subarray(at, at + c.dim), values, c.dim));
  }, 0);
}

/** Softmax of a query's scaled scores with `count` keys, which begin at `first` and are `stride` apart. */
function softmaxScores(
  query: Float32Array,
  k: Float32Array,
  first: number,
  stride: number,
  count: number,
): Float64Array {
  const dim = query.length;
  const q = Float64Array.from(query, (x) => x / Math.sqrt(dim));
  const weights = new Float64Array(count);
  let max = -Infinity;
  for (let j = 0, at = first; j < count; j++, at += stride) {
    let [even, odd] = [0, 0]; // two additions at a time; every head size is even
    for (let d = 0; d < dim; d += 2) {
      even += q[d] * k[at + d];
      odd += q[d + 1] * k[at + d + 1];
    }
    weights[j] = even + odd;
    if (weights[j] > max) max = weights[j];
  }
  let sum = 0;
  for (let j = 0; j < count; j++) sum += weights[j] = Math.exp(weights[j] - max);
  for (let j = 0; j < count; j++) weights[j] /= sum;
  return weights;
}

function weightedSum(weights: Float64Array, v: Float32Array, first: number, stride: number, dim: number): Float64Array {
  const sum = new Float64Array(dim);
  for (let j = 0, at = first; j < weights.length; j++, at += stride) {
    const w = weights[j];
    if (w < 1e-15) continue; // all of them together would not show
    for (let d = 0; d < dim; d++) sum[d] += w * v[at + d];
  }
  return sum;
}

/** Relative change of a row when the value at `at`, whose weight is w, is dropped: (row - w·v) / (1 - w) against row. */
function changeWithout(w: number, row: Float64Array, v: Float32Array, at: number): number {
  let [change, norm] = [0, 0];
  row.forEach((x, d) => {
    const without = w < 1 ? (x - w * v[at + d]) / (1 - w) : 0;
    change += (without - x) ** 2;
    norm += x * x;
  });
  return Math.sqrt(change / norm);
}
