import { dot, elements, floats, ints } from '#nano/backends/reference/dense';
import { InvalidTensorError } from '#nano/errors';
import { type FloatDType, roundTo } from '#nano/tensor/dtype';
import type { AttnVarlenArgs, AttnWithKvCacheArgs } from '#nano/tensor/kernels';
import type { Tensor } from '#nano/tensor/tensor';

/** Keys handled together by the online softmax. Tiles start at fixed key positions, whatever the query. */
const TILE = 32;

export function storeKvCache(k: Tensor, v: Tensor, kCache: Tensor, vCache: Tensor, slotMapping: Tensor): void {
  const [, heads, dim] = k.shape;
  const slots = kCache.shape[0] * kCache.shape[1];
  for (const [from, cache] of [
    [k, kCache],
    [v, vCache],
  ] as const) {
    const [source, target] = [floats(from), elements(cache)];
    const dtype = cache.dtype as FloatDType;
    ints(slotMapping).forEach((slot, t) => {
      if (slot === -1) return;
      if (slot < 0 || slot >= slots)
        throw new InvalidTensorError(`Slot ${slot} is outside the cache's ${slots} slots.`);
      for (let h = 0; h < heads; h++) {
        const start = from.offset + t * from.strides[0] + h * from.strides[1];
        const at = cache.offset + (slot * heads + h) * dim;
        for (let i = 0; i < dim; i++) target[at + i] = roundTo(dtype, source[start + i]);
      }
    });
  }
}

/** One sequence's keys or values: where key j of head h starts. */
type KeyStart = (j: number, head: number) => number;

/** Keys lie one after the other, or wherever the block table says. */
function keyStarts(kv: Tensor, firstKey: number, table: Int32Array | null): KeyStart {
  if (!table) return (j, head) => kv.offset + (firstKey + j) * kv.strides[0] + head * kv.strides[1];
  const [blocks, blockSize] = kv.shape;
  return (j, head) => {
    const block = table[Math.floor(j / blockSize)];
    if (block === undefined || block < 0 || block >= blocks) {
      throw new InvalidTensorError(`Block ${block} is outside the cache's ${blocks} blocks.`);
    }
    return kv.offset + block * kv.strides[0] + (j % blockSize) * kv.strides[1] + head * kv.strides[2];
  };
}

interface Query {
  q: Float32Array;
  qStart: number;
  out: Float32Array;
  outStart: number;
  dim: number;
  /** Query head h reads key head h / group. */
  kvHead: number;
  /** Keys this query sees: 0 … visible-1. */
  visible: number;
  scale: number;
}

type Attend = (query: Query, k: Float32Array, kAt: KeyStart, v: Float32Array, vAt: KeyStart) => void;

/**
 * FlashAttention's online softmax (Dao et al. 2022, algorithm 1; Milakov & Gimelshein 2018): the
 * scores are never stored. Walking over tiles of keys, it keeps the largest score so far (max), the sum of
 * exponentials relative to it (sum) and the weighted values (acc). When a tile brings a larger
 * score, what was gathered so far is scaled down by e^(old max - new max).
 */
const flash: Attend = ({ q, qStart, out, outStart, dim, kvHead, visible, scale }, k, kAt, v, vAt) => {
  const acc = new Float32Array(dim);
  const scores = new Float32Array(TILE);
  let max = -Infinity;
  let sum = 0;
  for (let first = 0; first < visible; first += TILE) {
    const count = Math.min(TILE, visible - first);
    let tileMax = max;
    for (let j = 0; j < count; j++) {
      scores[j] = dot(q, qStart, k, kAt(first + j, kvHead), dim) * scale;
      tileMax = Math.max(tileMax, scores[j]);
    }
    const correction = Math.exp(max - tileMax); // 0 for the first tile: e^-inf
    max = tileMax;
    sum *= correction;
    for (let i = 0; i < dim; i++) acc[i] *= correction;
    for (let j = 0; j < count; j++) {
      const p = Math.exp(scores[j] - max);
      sum += p;
      const start = vAt(first + j, kvHead);
      for (let i = 0; i < dim; i++) acc[i] += p * v[start + i];
    }
  }
  for (let i = 0; i < dim; i++) out[outStart + i] = sum > 0 ? acc[i] / sum : 0;
};

/** The textbook: all scores, softmax over them, weighted sum of values. `gathered` holds dense copies. */
const sdpaMath: (scoresOf: Float32Array) => Attend =
  (scores) =>
  ({ q, qStart, out, outStart, dim, kvHead, visible, scale }, k, kAt, v, vAt) => {
    let max = -Infinity;
    for (let j = 0; j < visible; j++) {
      scores[j] = dot(q, qStart, k, kAt(j, kvHead), dim) * scale;
      max = Math.max(max, scores[j]);
    }
    let sum = 0;
    for (let j = 0; j < visible; j++) {
      scores[j] = Math.exp(scores[j] - max);
      sum += scores[j];
    }
    out.fill(0, outStart, outStart + dim);
    for (let j = 0; j < visible; j++) {
      const start = vAt(j, kvHead);
      for (let i = 0; i < dim; i++) out[outStart + i] += (scores[j] / sum) * v[start + i];
    }
  };

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

export function attnVarlen(out: Tensor, q: Tensor, k: Tensor, v: Tensor, args: AttnVarlenArgs): void {
  const { blockTables, workspace } = args;
  const [cuQ, cuK] = [ints(args.cuSeqlensQ), ints(args.cuSeqlensK)];
  const tables = blockTables && ints(blockTables);
  for (let b = 0; b + 1 < cuQ.length; b++) {
    const width = blockTables?.shape[1] ?? 0;
    const table = tables && tables.subarray(b * width, (b + 1) * width);
    const queries = cuQ[b + 1] - cuQ[b];
    const keys = cuK[b + 1] - cuK[b];
    attendSequence(out, q, k, v, {
      firstQuery: cuQ[b],
      queries,
      keys,
      visible: (i) => (args.causal ? Math.max(0, keys - queries + i + 1) : keys),
      kAt: keyStarts(k, cuK[b], table),
      vAt: keyStarts(v, cuK[b], table),
      scale: args.softmaxScale,
      workspace,
      workspaceRow: 0,
    });
  }
}

export function attnWithKvCache(
  out: Tensor,
  q: Tensor,
  kCache: Tensor,
  vCache: Tensor,
  args: AttnWithKvCacheArgs,
): void {
  const width = args.blockTables.shape[1];
  const tables = ints(args.blockTables);
  ints(args.contextLens).forEach((keys, b) => {
    const table = tables.subarray(b * width, (b + 1) * width);
    attendSequence(out, q, kCache, vCache, {
      firstQuery: b,
      queries: 1,
      keys,
      visible: () => keys,
      kAt: keyStarts(kCache, 0, table),
      vAt: keyStarts(vCache, 0, table),
      scale: args.softmaxScale,
      workspace: args.workspace,
      workspaceRow: b,
    });
  });
}

interface OneSequence {
  firstQuery: number;
  queries: number;
  keys: number;
  visible: (i: number) => number;
  kAt: KeyStart;
  vAt: KeyStart;
  scale: number;
  workspace: AttnVarlenArgs['workspace'];
  workspaceRow: number;
}

function attendSequence(out: Tensor, q: Tensor, k: Tensor, v: Tensor, s: OneSequence): void {
  const [, heads, dim] = q.shape;
  const group = heads / k.shape[k.rank - 2];
  let [ks, vs, kAt, vAt, attend] = [floats(k), floats(v), s.kAt, s.vAt, flash];
  if (s.workspace) {
    kAt = gather(s.workspace.k, s.workspaceRow, ks, kAt, s.keys);
    vAt = gather(s.workspace.v, s.workspaceRow, vs, vAt, s.keys);
    [ks, vs] = [floats(s.workspace.k), floats(s.workspace.v)];
    attend = sdpaMath(floats(s.workspace.scores).subarray(s.workspace.scores.offset));
  }
  for (let i = 0; i < s.queries; i++) {
    const t = s.firstQuery + i;
    for (let h = 0; h < heads; h++) {
      const query: Query = {
        q: floats(q),
        qStart: q.offset + t * q.strides[0] + h * q.strides[1],
        out: floats(out),
        outStart: out.offset + t * out.strides[0] + h * out.strides[1],
        dim,
        kvHead: Math.floor(h / group),
        visible: s.visible(i),
        scale: s.scale,
      };
      attend(query, ks, kAt, vs, vAt);
    }
  }
}
