import type { FloatDType } from '#nano/tensor/dtype';
import type { Tensor } from '#nano/tensor/tensor';

/**
 * The op list: everything a backend must know how to compute. A dozen operations carry the whole
 * model. Each writes into tensors it is given; who allocates them and who checks their shapes is
 * `ops.ts`, once for all backends.
 *
 * Letters in shapes: T tokens in the step, B sequences, H hidden size, K inputs and N outputs of a
 * linear layer, V vocabulary, Hq query heads, Hkv key/value heads, D head size, P positions,
 * NB cache blocks, BS tokens a block, MB blocks in the longest block table.
 *
 * Activations have the backend's activation dtype (float32 on `reference` and `cpu`, the model's own 16 bits on `cuda`); weights
 * and the KV cache have the model's dtype; logits are float32; all arithmetic accumulates in float32.
 *
 * **A row's result never depends on the rows beside it** on `reference` and `cpu`: the order of its
 * additions is fixed by its own shape. That is what makes batched, chunked and preempted runs
 * agree to the last bit with a run alone.
 */
export interface Kernels {
  /**
   * `out[T, H]` = rows `ids[T]` (int32) of `weight[V, H]`. With `firstRow` not null the weight is a shard that holds rows
   * `firstRow …` of a larger table: other ids give zeros.
   */
  embedding(out: Tensor, ids: Tensor, weight: Tensor, firstRow: number | null): void;

  /** `out[T, N] = x[T, K] · weight[N, K]ᵀ`: weights lie as in the checkpoint, one output a row. See {@link LinearArgs}. */
  linear(out: Tensor, x: Tensor, weight: Tensor, args: LinearArgs): void;

  /**
   * Root mean square normalisation over the last dimension (Zhang & Sennrich 2019, eq. 4):
   * `out = x / sqrt(mean(x²) + eps) · weight`. `x` is `[T, H]` or, per head, `[T, heads, D]`
   * (strided); `out` may be `x` itself.
   */
  rmsNorm(out: Tensor, x: Tensor, weight: Tensor, eps: number): void;

  /** SwiGLU (Shazeer 2020): `out[T, I] = silu(x[:, :I]) · x[:, I:]` for `x[T, 2I]`; silu(z) = z / (1 + e⁻ᶻ). */
  siluAndMul(out: Tensor, x: Tensor): void;

  /**
   * Rotary position embedding (Su et al. 2021, §3.2.2) in place on `q[T, Hq, D]` and `k[T, Hkv, D]`.
   * Half-split pairs (i, i + D/2), as in Qwen and Llama checkpoints. `cosSin[P, D]` float32 holds
   * cosines in columns 0 … D/2-1 and sines in the rest; `positions[T]` int32 picks its rows.
   */
  rotaryEmbedding(q: Tensor, k: Tensor, positions: Tensor, cosSin: Tensor): void;

  /**
   * Writes `k[T, Hkv, D]` and `v[T, Hkv, D]` into the paged cache `[NB, BS, Hkv, D]` (PagedAttention,
   * Kwon et al. 2023, §4.2). Token t goes to slot `slotMapping[t]` = block · BS + offset; -1 skips it.
   */
  storeKvCache(k: Tensor, v: Tensor, kCache: Tensor, vCache: Tensor, slotMapping: Tensor): void;

  /** Prefill attention: `out[T, Hq, D]` from `q[T, Hq, D]`. See {@link AttnVarlenArgs}. */
  attnVarlen(out: Tensor, q: Tensor, k: Tensor, v: Tensor, args: AttnVarlenArgs): void;

  /** Decode attention: one query a sequence, `out[B, Hq, D]` from `q[B, Hq, D]`. See {@link AttnWithKvCacheArgs}. */
  attnWithKvCache(out: Tensor, q: Tensor, kCache: Tensor, vCache: Tensor, args: AttnWithKvCacheArgs): void;

  /** `out[R, H]` = rows `rows[R]` (int32) of `x[T, H]`: keeps the last token of each sequence for the LM head. */
  gatherRows(out: Tensor, x: Tensor, rows: Tensor): void;

  /**
   * `out[B] = table[slots[B]]`, all int32; slot -1 gives 0. With {@link scatterTokens} it feeds each drawn token to the
   * next step on the device: the host may launch that step before it knows the token.
   */
  gatherTokens(out: Tensor, table: Tensor, slots: Tensor): void;

  /** `table[slots[B]] = values[B]`, all int32; slot -1 skips, and no other slot appears twice. */
  scatterTokens(table: Tensor, values: Tensor, slots: Tensor): void;

  /**
   * Optional: {@link rmsNorm} of each query and key head, {@link rotaryEmbedding} and {@link storeKvCache} in one pass over the
   * projection. `q` is updated in place; `k` and `v` are only needed in the cache and may be left as they were. Where a
   * backend has none, the four are called one by one (`ops.ts`).
   */
  qkNormRopeStore?(q: Tensor, k: Tensor, v: Tensor, args: QkNormRopeStoreArgs): void;

  /**
   * Lays `parts[n, B, W]` side by side: row b of `out[B, V]` is parts[0][b], parts[1][b], … cut off after V ≤ n·W elements. Turns
   * what an all-gather of logit shards brings into logits.
   */
  concatColumns(out: Tensor, parts: Tensor): void;

  /** Draws one token id a row: `out[B]` int32 from `logits[B, V]`. See {@link SampleArgs}. */
  sample(out: Tensor, logits: Tensor, args: SampleArgs): void;
}

/** What a linear layer does beside its product. */
export interface LinearArgs {
  /** float32 `[N]`, added to each row. */
  readonly bias: Tensor | null;
  /** `out +=` instead of `out =`: how a block adds its result to the residual stream. */
  readonly accumulate: boolean;
  /**
   * SwiGLU on the way out: `out[T, N / 2]` is silu of the first half of the outputs times the second. Only where
   * {@link Backend.fusesSiluAndMul} says so.
   */
  readonly siluAndMul: boolean;
}

/** See {@link Kernels.qkNormRopeStore}. */
export interface QkNormRopeStoreArgs {
  /** float32 `[D]`: the norms' gains. */
  readonly qWeight: Tensor;
  readonly kWeight: Tensor;
  readonly eps: number;
  /** int32 `[T]`, float32 `[P, D]` */
  readonly positions: Tensor;
  readonly cosSin: Tensor;
  /** `[NB, BS, Hkv, D]` */
  readonly kCache: Tensor;
  readonly vCache: Tensor;
  /** int32 `[T]` */
  readonly slotMapping: Tensor;
}

/** The attention implementations a user can choose between (`attnBackend`). */
export const ATTN_BACKENDS = ['flash', 'sdpa.math'] as const;
export type AttnBackend = (typeof ATTN_BACKENDS)[number];

interface AttnArgs {
  /** Scores are multiplied by this before the softmax; 1/sqrt(D) for Qwen3. */
  readonly softmaxScale: number;
  /**
   * `flash`: tiled online softmax (Dao et al. 2022), temporary memory of one tile.
   * `sdpa.math`: gathers K and V into dense buffers and materialises all scores (the baseline).
   */
  readonly attnBackend: AttnBackend;
  /**
   * Scratch for `sdpa.math`, float32: dense keys and values `[W, maxSeqlenK, Hkv, D]` and scores
   * `[W, Hq, maxSeqlenQ, maxSeqlenK]`. Decode gathers the whole batch (W = B, maxSeqlenQ = 1);
   * prefill takes one sequence after the other (W = 1). Null for `flash`.
   */
  readonly workspace: { readonly k: Tensor; readonly v: Tensor; readonly scores: Tensor } | null;
}

/**
 * Ragged batch: sequence b owns query rows `cuSeqlensQ[b] … cuSeqlensQ[b+1]-1` and has
 * `cuSeqlensK[b+1] - cuSeqlensK[b]` keys. The arguments are flash-attn's `flash_attn_varlen_func`.
 *
 * - `blockTables` null: `k` and `v` are contiguous `[total keys, Hkv, D]`.
 * - `blockTables[B, MB]` int32: `k` and `v` are the paged cache `[NB, BS, Hkv, D]`; key j of sequence b lies
 *   in block `blockTables[b, j / BS]` at offset `j % BS`. Entries past the last key are never read.
 *
 * Causal masks align at the bottom right: query i of n queries over m keys sees keys `0 … m-n+i`.
 * A query that sees no key gives zeros. Query head h reads key head `h / (Hq / Hkv)`.
 */
export interface AttnVarlenArgs extends AttnArgs {
  readonly cuSeqlensQ: Tensor;
  readonly cuSeqlensK: Tensor;
  readonly maxSeqlenQ: number;
  readonly maxSeqlenK: number;
  readonly causal: boolean;
  readonly blockTables: Tensor | null;
}

/** Sequence b attends to its `contextLens[b]` (int32) cached keys, the new token's among them; 0 gives zeros. */
export interface AttnWithKvCacheArgs extends AttnArgs {
  readonly contextLens: Tensor;
  readonly blockTables: Tensor;
  readonly maxContextLen: number;
}

/**
 * One row of parameters a sequence. Filters apply in vLLM's order: temperature, min-p, top-k,
 * top-p. Among the survivors the token is the argmax of `logit/temperature + Gumbel noise`, which is a
 * draw from the softmax. The noise comes from Philox keyed by (seed, position, token id), so a
 * request draws the same tokens in any batch, on any backend (`utils/philox.ts`).
 */
export interface SampleArgs {
  /** float32 `[B]`; 0 = greedy: the largest logit, the lowest id among equals. */
  readonly temperature: Tensor;
  /** int32 `[B]`; 0 = off. Keeps the k largest; ties at the edge go to lower ids. */
  readonly topK: Tensor;
  /** float32 `[B]` in (0, 1]; keeps the smallest set of most likely tokens whose mass reaches topP. */
  readonly topP: Tensor;
  /** float32 `[B]` in [0, 1]; keeps tokens with at least minP times the top token's probability. */
  readonly minP: Tensor;
  /** int32 `[B, 2]`: low and high word of the request's 64-bit seed. */
  readonly seed: Tensor;
  /** int32 `[B]`: index of the token being drawn within its request's output. */
  readonly position: Tensor;
}

/** Memory and transfers of one device; with {@link Kernels}, all that a backend is. */
export interface Backend extends Kernels {
  readonly name: 'reference' | 'cpu' | 'cuda';
  /** One line for people: device, threads, instruction set. */
  readonly description: string;
  /** Dtypes a model may have here, the preferred one first for checkpoints in another. */
  readonly dtypes: readonly FloatDType[];
  /** What activations of a model of this dtype are kept in. */
  activationDType(dtype: FloatDType): FloatDType;
  /**
   * Whether kernels only start when they are called, and go on while JavaScript does: worth launching a step before the
   * results of the one before are known. All that is launched runs in the order of the calls, transfers included.
   */
  readonly isAsync: boolean;
  /** Whether `linear` does `siluAndMul` itself for this many rows: where a kernel less counts. */
  fusesSiluAndMul?(rows: number): boolean;
  /** Address space for activations, handed out by the arena; `bytes` as {@link bytesOf} counts them. */
  reserveArena(bytes: number): ArenaMemory;
  /** Bytes a tensor of this many elements takes on this backend. */
  bytesOf(numel: number, dtype: Tensor['dtype']): number;
  /** A zeroed tensor owned until {@link Backend.close} (weights, KV cache, tables). */
  allocate(shape: readonly number[], dtype: Tensor['dtype']): Tensor;
  /** A weight matrix `[N, K]`, in the backend's own layout; fill it with {@link loadRows}. */
  allocateWeight(shape: readonly [number, number], dtype: FloatDType): Tensor;
  /**
   * Writes checkpoint bytes (row-major, little-endian, `dtype`) into rows `firstRow …` of a weight `[N, K]`, or into
   * elements `firstRow …` of a vector, converting to the tensor's dtype.
   */
  loadRows(weight: Tensor, firstRow: number, bytes: Uint8Array, dtype: FloatDType): void;
  /**
   * Copies host values into a contiguous tensor of the same number of elements. The values are taken before it returns (the
   * array may be used again at once), and arrive behind all that was launched before.
   */
  write(tensor: Tensor, values: Float32Array | Int32Array): void;
  /** Copies a contiguous float32 or int32 tensor to the host: what it holds now, whatever is launched afterwards. */
  read(tensor: Tensor): Promise<Float32Array | Int32Array>;
  /**
   * Where the device has them: captures the kernels `run` calls in a graph, which launches them all at once. `run` obeys
   * the rules of a recording (`recording.ts`), and may be called more than once.
   */
  captureGraph?(run: () => void): DeviceGraph;
  /** Bytes owned now: weights, KV cache, arena. */
  readonly allocatedBytes: number;
  /** Frees everything. Calling it twice is harmless. */
  close(): void;
}

/** Captured kernels with their arguments, tensor addresses among them. */
export interface DeviceGraph {
  launch(): void;
  /** Calling it twice is harmless. */
  free(): void;
}

export interface ArenaMemory {
  readonly capacity: number;
  /** The storage that starts at byte `offset`. */
  storageAt(offset: number, numel: number, dtype: Tensor['dtype']): Tensor['storage'];
  free(): void;
}
