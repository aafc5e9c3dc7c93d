import type { RMSNorm } from '#nano/layers/layernorm';
import type { RotaryEmbedding } from '#nano/layers/rotary-embedding';
import type { AttnBackend } from '#nano/tensor/kernels';
import type { Ops } from '#nano/tensor/ops';
import type { Tensor } from '#nano/tensor/tensor';
import type { Context } from '#nano/utils/context';

/** One layer's paged cache, `[NB, BS, Hkv, D]` each. */
export interface KvCache {
  readonly k: Tensor;
  readonly v: Tensor;
}

/** What turns a head's projection into a query or key: see {@link Attention.forward}. */
export interface HeadTransform {
  readonly qNorm: RMSNorm;
  readonly kNorm: RMSNorm;
  readonly rotary: RotaryEmbedding;
  readonly positions: Tensor;
}

/**
 * Normalises and rotates the new queries and keys, stores keys and values in the cache, then attends over the cache.
 *
 * Prefill could read its fresh keys directly. It reads them back from the cache, so that a token
 * sees the same (rounded) numbers whether its prompt came whole, in chunks or from a cached prefix.
 */
export class Attention {
  private readonly softmaxScale: number;
  private cache: KvCache | undefined;

  constructor(
    private readonly ops: Ops,
    headDim: number,
    private readonly attnBackend: AttnBackend,
  ) {
    this.softmaxScale = 1 / Math.sqrt(headDim);
  }

  bindCache(cache: KvCache): void {
    this.cache = cache;
  }

  /**
   * `q[T, Hq, D]`, `k[T, Hkv, D]`, `v[T, Hkv, D]` → `[T, Hq, D]`. The inputs are used up: what is between the projection and
   * attention is a chain of small steps over the same numbers, which a GPU does in one kernel.
   */
  forward(q: Tensor, k: Tensor, v: Tensor, heads: HeadTransform, context: Context): Tensor {
    if (!this.cache) throw new Error('Attention has no KV cache yet: call bindCache first.');
    const { ops, softmaxScale, attnBackend } = this;
    const { k: kCache, v: vCache } = this.cache;
    const { qNorm, kNorm, rotary, positions } = heads;
    ops.qkNormRopeStore(q, k, v, {
      qWeight: qNorm.weight,
      kWeight: kNorm.weight,
      eps: qNorm.eps,
      positions,
      cosSin: rotary.cosSin,
      kCache,
      vCache,
      slotMapping: context.slotMapping,
    });
    return context.isPrefill
      ? ops.attnVarlen(q, kCache, vCache, { ...varlen(context), softmaxScale, attnBackend })
      : ops.attnWithKvCache(q, kCache, vCache, {
          contextLens: context.contextLens,
          maxContextLen: context.maxContextLen,
          blockTables: context.blockTables,
          softmaxScale,
          attnBackend,
        });
  }
}

function varlen(context: Extract<Context, { isPrefill: true }>) {
  const { cuSeqlensQ, cuSeqlensK, maxSeqlenQ, maxSeqlenK, blockTables } = context;
  return { cuSeqlensQ, cuSeqlensK, maxSeqlenQ, maxSeqlenK, blockTables };
}
