// Exercise made from src/backends/reference/attention.ts by `npm run days`, which keeps what you write. [f97a586ad81d98cb]
import { dot, elements, floats, ints } from '#nano/backends/reference/dense';
import { InvalidTensorError } from '#nano/errors';
import { type FloatDType, roundTo } from '#nano/tensor/dtype';
import type { AttnVarlenArgs, AttnWithKvCacheArgs } from '#nano/tensor/kernels';
import type { Tensor } from '#nano/tensor/tensor';
import { TodoError } from '#nano/utils/todo';

/** Keys handled together by the online softmax. Tiles start at fixed key positions, whatever the query. */
const TILE = 32;

/** One sequence's keys or values: where key j of head h starts. */
export type KeyStart = (j: number, head: number) => number;

/** One query of one head. */
export interface Query {
  /** Its numbers are `q[qStart … qStart + dim - 1]`. */
  q: Float32Array;
  qStart: number;
  /** Where its result goes: `dim` numbers from `outStart` on. */
  out: Float32Array;
  outStart: number;
  dim: number;
  /** The key head it reads. */
  kvHead: number;
  /** Keys this query sees: 0 … visible-1. None is possible, and gives zeros. */
  visible: number;
  /** Scores are multiplied by this before the softmax. */
  scale: number;
}

/**
 * Attention of one query: `out = Σ pⱼ·vⱼ` over the visible keys, with p = softmax(scale · q·kⱼ). Key j's numbers are
 * `k[kAt(j, kvHead) …]`, its value's `v[vAt(j, kvHead) …]`. Nothing beyond the last visible key may be read.
 */
export type Attend = (query: Query, k: Float32Array, kAt: KeyStart, v: Float32Array, vAt: KeyStart) => void;

/**
 * How many keys, from key 0 on, query `i` of `queries` sees. Causal masks align at the bottom right: the queries are the
 * last of the keys' tokens, so the last query sees every key, and each one before it one fewer.
 */
function visibleKeys(i: number, queries: number, keys: number, causal: boolean): number {
  // TODO 3.4 (about 1 line)
  // Three new tokens after five cached ones: 3 queries, 8 keys. They see 6, 7 and 8 keys.
  // With more queries than keys the first see none: 0, not a negative number.
  throw new TodoError('3.4', 'days/day3/attention.ts');
}

/** The key head that query head `head` reads: neighbouring query heads share one (grouped-query attention). */
function kvHeadOf(head: number, heads: number, kvHeads: number): number {
  // TODO 3.4 (about 1 line)
  // With 4 query heads and 2 key heads, query heads 0 and 1 read key head 0; 2 and 3 read key head 1.
  throw new TodoError('3.4', 'days/day3/attention.ts');
}

/** The textbook: all scores (kept in `scores`, which has room for them), softmax over them, weighted sum of values. */
export const sdpaMath: (scores: Float32Array) => Attend =
  (scores) =>
  ({ q, qStart, out, outStart, dim, kvHead, visible, scale }, k, kAt, v, vAt) => {
    // TODO 3.4 (about 15 lines)
    // Three loops over the keys: scores and their maximum; exponentials and their sum; the weighted values.
    // `dot(q, qStart, k, kAt(j, kvHead), dim)` is q·kⱼ. Subtract the maximum before `Math.exp`, or a score
    // of 100 is infinity in float32. `out` holds old numbers: set it to zeros first.
    throw new TodoError('3.4', 'days/day3/attention.ts');
  };

/**
 * FlashAttention's online softmax (Dao et al. 2022, algorithm 1; Milakov & Gimelshein 2018): one pass over the keys, and the
 * scores are never stored, but for one tile of them. Walking over tiles of keys, it keeps the largest score so far (max), the
 * sum of exponentials relative to it (sum) and the weighted values (acc). When a tile brings a larger score, what was
 * gathered so far is scaled down by e^(old max - new max).
 */
export const flash: Attend = ({ q, qStart, out, outStart, dim, kvHead, visible, scale }, k, kAt, v, vAt) => {
  // TODO 3.5 (about 25 lines)
  // For each tile of up to TILE keys: its scores and the new maximum; scale `sum` and `acc` by
  // e^(old max - new max); then add each key's e^(score - new max) to `sum` and its weighted value to `acc`.
  // The last tile may be shorter. At the end out = acc / sum, or zeros if there was no key.
  throw new TodoError('3.5', 'days/day3/attention.ts');
};

export function storeKvCache(k: Tensor, v: Tensor, kCache: Tensor, vCache: Tensor, slotMapping: Tensor): void {
  storeRows(k, kCache, ints(slotMapping));
  storeRows(v, vCache, ints(slotMapping));
}

/**
 * Writes the rows of `from[T, heads, D]` into the cache `[NB, BS, heads, D]`: row t to slot `slots[t]`, rounded as the cache's
 * dtype rounds (`roundTo`); slot -1 skips the row. `from` is strided: head h of row t starts at
 * `offset + t·strides[0] + h·strides[1]`. The cache is contiguous: slot after slot, head after head, from `offset` on.
 * @throws InvalidTensorError when a slot is outside the cache.
 */
function storeRows(from: Tensor, cache: Tensor, slots: Int32Array): void {
  const [, heads, dim] = from.shape;
  const [source, target] = [floats(from), elements(cache)];
  const dtype = cache.dtype as FloatDType;
  // TODO 3.6 (about 9 lines)
  // A slot is a place in the whole cache, block · BS + offset: slots 0 … NB·BS - 1 exist. A slot holds heads · dim
  // numbers. The message of the error names the slot and how many there are.
  throw new TodoError('3.6', 'days/day3/attention.ts');
}

/** Where keys (or values) `firstKey …` of `kv[keys, Hkv, D]` start that lie one after the other. */
function contiguousStarts(kv: Tensor, firstKey: number): KeyStart {
  return (j, head) => kv.offset + (firstKey + j) * kv.strides[0] + head * kv.strides[1];
}

/**
 * Where the keys (or values) of a sequence start that lie in the cache `kv[NB, BS, Hkv, D]`: key j in block
 * `table[⌊j / BS⌋]` at offset j mod BS, as its row of the block tables says.
 * @throws InvalidTensorError (the returned function does) when the table names a block that the cache doesn't have.
 */
function pagedStarts(kv: Tensor, table: Int32Array): KeyStart {
  const [blocks, blockSize] = kv.shape;
  // TODO 3.6 (about 7 lines)
  // As in `contiguousStarts`, but a block, an offset in it and a head have a stride each: strides[0], [1] and [2].
  // Rows of the tables are padded with -1, and past the end of a row there is undefined: neither is a block.
  throw new TodoError('3.6', 'days/day3/attention.ts');
}

/** Row `b` of the block tables `[B, MB]`: the blocks of sequence b, padded with -1. */
function tableOf(blockTables: Tensor, b: number): Int32Array {
  const width = blockTables.shape[1];
  return ints(blockTables).subarray(b * width, (b + 1) * width);
}

/** Prefill. Sequence after sequence of the ragged batch; its keys are contiguous, or paged where there are tables. */
export function attnVarlen(out: Tensor, q: Tensor, k: Tensor, v: Tensor, args: AttnVarlenArgs): void {
  const { blockTables, causal, softmaxScale, workspace } = args;
  const [cuQ, cuK] = [ints(args.cuSeqlensQ), ints(args.cuSeqlensK)];
  for (let b = 0; b + 1 < cuQ.length; b++) {
    const queries = cuQ[b + 1] - cuQ[b];
    const keys = cuK[b + 1] - cuK[b];
    const table = blockTables && tableOf(blockTables, b);
    attendSequence(out, q, k, v, {
      firstQuery: cuQ[b],
      queries,
      keys,
      causal,
      kAt: table ? pagedStarts(k, table) : contiguousStarts(k, cuK[b]),
      vAt: table ? pagedStarts(v, table) : contiguousStarts(v, cuK[b]),
      softmaxScale,
      workspace,
      workspaceRow: 0,
    });
  }
}

/** Decode. Row b of q is the one query of sequence b, which sees all of its `contextLens[b]` keys. */
export function attnWithKvCache(
  out: Tensor,
  q: Tensor,
  kCache: Tensor,
  vCache: Tensor,
  args: AttnWithKvCacheArgs,
): void {
  const { blockTables, softmaxScale, workspace } = args;
  // TODO 3.6 (about 15 lines)
  // As `attnVarlen` above, with one query a sequence, its keys always paged, and `workspaceRow: b`: the baseline
  // gathers the whole batch.
  throw new TodoError('3.6', 'days/day3/attention.ts');
}

interface OneSequence {
  /** Its queries are rows `firstQuery … firstQuery + queries - 1` of q and out. */
  firstQuery: number;
  queries: number;
  keys: number;
  causal: boolean;
  kAt: KeyStart;
  vAt: KeyStart;
  softmaxScale: number;
  /** With one, the sequence's keys are gathered into its row `workspaceRow` and all scores are stored: the baseline. */
  workspace: AttnVarlenArgs['workspace'];
  workspaceRow: number;
}

/** Every query of every head, one after the other. */
function attendSequence(out: Tensor, q: Tensor, k: Tensor, v: Tensor, s: OneSequence): void {
  const [, heads, dim] = q.shape;
  const kvHeads = k.shape[k.rank - 2];
  let [ks, vs, kAt, vAt, attend] = [floats(k), floats(v), s.kAt, s.vAt, flash];
  if (s.workspace) {
    kAt = gather(s.workspace.k, s.workspaceRow, ks, kAt, s.keys);
    vAt = gather(s.workspace.v, s.workspaceRow, vs, vAt, s.keys);
    [ks, vs] = [floats(s.workspace.k), floats(s.workspace.v)];
    attend = sdpaMath(floats(s.workspace.scores).subarray(s.workspace.scores.offset));
  }
  for (let i = 0; i < s.queries; i++) {
    const t = s.firstQuery + i;
    const visible = visibleKeys(i, s.queries, s.keys, s.causal);
    for (let h = 0; h < heads; h++) {
      const query: Query = {
        q: floats(q),
        qStart: q.offset + t * q.strides[0] + h * q.strides[1],
        out: floats(out),
        outStart: out.offset + t * out.strides[0] + h * out.strides[1],
        dim,
        kvHead: kvHeadOf(h, heads, kvHeads),
        visible,
        scale: s.softmaxScale,
      };
      attend(query, ks, kAt, vs, vAt);
    }
  }
}

/** Copies one sequence's keys (or values) into row `w` of the dense workspace `[W, S, Hkv, D]`. */
function gather(dense: Tensor, w: number, source: Float32Array, at: KeyStart, keys: number): KeyStart {
  const [, , heads, dim] = dense.shape;
  const target = floats(dense);
  const start: KeyStart = (j, h) => dense.offset + w * dense.strides[0] + j * dense.strides[1] + h * dense.strides[2];
  for (let j = 0; j < keys; j++) {
    for (let h = 0; h < heads; h++) {
      const from = at(j, h);
      for (let i = 0; i < dim; i++) target[start(j, h) + i] = source[from + i];
    }
  }
  return start;
}
