import { InvalidTensorError } from '#nano/errors';
import { match } from '#nano/tensor/check';
import type { AttnBackend, QkNormRopeStoreArgs, SampleArgs } from '#nano/tensor/kernels';
import { OpRunner } from '#nano/tensor/op-runner';
import type { Tensor } from '#nano/tensor/tensor';

/** What layers pass to {@link Ops.attnVarlen}; flash-attn's argument names. */
export interface VarlenInput {
  cuSeqlensQ: Tensor;
  cuSeqlensK: Tensor;
  maxSeqlenQ: number;
  maxSeqlenK: number;
  softmaxScale: number;
  attnBackend: AttnBackend;
  /** Default true. */
  causal?: boolean;
  /** Null or absent: `k` and `v` are contiguous. */
  blockTables?: Tensor | null;
}

/** What layers pass to {@link Ops.attnWithKvCache}. */
export interface KvCacheInput {
  contextLens: Tensor;
  maxContextLen: number;
  blockTables: Tensor;
  softmaxScale: number;
  attnBackend: AttnBackend;
}

/** What layers pass to {@link Ops.linear}. */
export interface LinearOptions {
  /** float32 `[N]` */
  bias?: Tensor | null;
  /** `[T, N]`: the product is added to it. */
  addTo?: Tensor;
  /** The outputs are gate's and up's halves; not together with `addTo`. */
  siluAndMul?: boolean;
  /** Where the product goes; it must not be `x`. */
  out?: Tensor;
}

/**
 * The op list as layers see it: an operation checks its arguments, takes its result from the arena
 * and calls the backend's kernel. Shapes and meanings are documented at `Kernels` (`kernels.ts`).
 */
export class Ops extends OpRunner {
  /** `firstRow`: of a weight that is a shard. */
  embedding(ids: Tensor, weight: Tensor, firstRow: number | null = null): Tensor {
    const { T, H } = match('embedding', { ids: [ids, ['T'], 'int32'], weight: [weight, ['V', 'H']] });
    const out = this.empty([T, H]);
    this.run((k) => k.embedding(out, ids, weight, firstRow));
    return out;
  }

  /**
   * `x[T, K]` → `[T, N]`, into a new tensor or added to `addTo`. With `siluAndMul` the result is `[T, N / 2]`: by the same
   * kernel where the backend does that, else by one of its own.
   */
  linear(x: Tensor, weight: Tensor, options: LinearOptions = {}): Tensor {
    const { bias = null, addTo, siluAndMul = false, out } = options;
    const outputs = siluAndMul ? weight.shape[0] / 2 : weight.shape[0];
    const y = addTo ?? out ?? this.empty([x.shape[0], outputs]);
    if (siluAndMul && !this.backend.fusesSiluAndMul?.(x.shape[0])) {
      this.scope(() => this.siluAndMul(this.linear(x, weight, { bias }), y));
      return y;
    }
    match('linear', {
      x: [x, ['T', 'K']],
      weight: [weight, ['N', 'K']],
      out: [y, ['T', siluAndMul ? outputs : 'N']],
      ...(bias && { bias: [bias, ['N'], 'float32'] }),
    });
    const args = { bias, accumulate: addTo !== undefined, siluAndMul };
    this.run((k) => k.linear(y, x, weight, args));
    return y;
  }

  rmsNorm(x: Tensor, weight: Tensor, eps: number, out?: Tensor): Tensor {
    const dims = x.rank === 3 ? ['T', 'heads', 'D'] : ['T', 'D'];
    match('rmsNorm', { x: [x, dims], weight: [weight, ['D']], ...(out && { out: [out, dims] }) });
    const y = out ?? this.empty(x.shape);
    this.run((k) => k.rmsNorm(y, x, weight, eps));
    return y;
  }

  /** `[T, 2I]` → `[T, I]`, into `out` when it is given. */
  siluAndMul(x: Tensor, out?: Tensor): Tensor {
    const { T, I2 } = match('siluAndMul', { x: [x, ['T', 'I2']] });
    if (I2 % 2 !== 0)
      throw new InvalidTensorError(`siluAndMul: the columns are gate and up halves, got ${I2} of them.`);
    const y = out ?? this.empty([T, I2 / 2]);
    match('siluAndMul', { out: [y, [T, I2 / 2]] });
    this.run((k) => k.siluAndMul(y, x));
    return y;
  }

  /** In place on `q` and `k`. */
  rotaryEmbedding(q: Tensor, k: Tensor, positions: Tensor, cosSin: Tensor): void {
    const { D } = match('rotaryEmbedding', {
      q: [q, ['T', 'Hq', 'D']],
      k: [k, ['T', 'Hkv', 'D']],
      positions: [positions, ['T'], 'int32'],
      cosSin: [cosSin, ['P', 'D'], 'float32'],
    });
    if (D % 2 !== 0) throw new InvalidTensorError(`rotaryEmbedding: the head size must be even, got ${D}.`);
    this.run((kernels) => kernels.rotaryEmbedding(q, k, positions, cosSin));
  }

  storeKvCache(k: Tensor, v: Tensor, kCache: Tensor, vCache: Tensor, slotMapping: Tensor): void {
    match('storeKvCache', {
      k: [k, ['T', 'Hkv', 'D']],
      v: [v, ['T', 'Hkv', 'D']],
      kCache: [kCache, ['NB', 'BS', 'Hkv', 'D']],
      vCache: [vCache, ['NB', 'BS', 'Hkv', 'D']],
      slotMapping: [slotMapping, ['T'], 'int32'],
    });
    this.run((kernels) => kernels.storeKvCache(k, v, kCache, vCache, slotMapping));
  }

  /**
   * What lies between the projection and attention: head norms, rotary positions, and the store of keys and values. `q` is
   * updated in place; `k` and `v` are in the cache afterwards, and hold nothing of use. One kernel where the backend has it.
   */
  qkNormRopeStore(q: Tensor, k: Tensor, v: Tensor, args: QkNormRopeStoreArgs): void {
    const { qWeight, kWeight, eps, positions, cosSin, kCache, vCache, slotMapping } = args;
    if (!this.backend.qkNormRopeStore) {
      this.rmsNorm(q, qWeight, eps, q);
      this.rmsNorm(k, kWeight, eps, k);
      this.rotaryEmbedding(q, k, positions, cosSin);
      this.storeKvCache(k, v, kCache, vCache, slotMapping);
      return;
    }
    match('qkNormRopeStore', {
      q: [q, ['T', 'Hq', 'D']],
      k: [k, ['T', 'Hkv', 'D']],
      v: [v, ['T', 'Hkv', 'D']],
      qWeight: [qWeight, ['D'], 'float32'],
      kWeight: [kWeight, ['D'], 'float32'],
      positions: [positions, ['T'], 'int32'],
      cosSin: [cosSin, ['P', 'D'], 'float32'],
      kCache: [kCache, ['NB', 'BS', 'Hkv', 'D']],
      vCache: [vCache, ['NB', 'BS', 'Hkv', 'D']],
      slotMapping: [slotMapping, ['T'], 'int32'],
    });
    this.run((kernels) => kernels.qkNormRopeStore?.(q, k, v, args));
  }

  attnVarlen(q: Tensor, k: Tensor, v: Tensor, input: VarlenInput): Tensor {
    const { blockTables = null, causal = true, ...args } = input;
    const kv = blockTables ? ['NB', 'BS', 'Hkv', 'D'] : ['S', 'Hkv', 'D'];
    const sizes = match('attnVarlen', {
      q: [q, ['T', 'Hq', 'D']],
      k: [k, kv],
      v: [v, kv],
      cuSeqlensQ: [args.cuSeqlensQ, ['B+1'], 'int32'],
      cuSeqlensK: [args.cuSeqlensK, ['B+1'], 'int32'],
      ...(blockTables && { blockTables: [blockTables, ['B', 'MB'], 'int32'] }),
    });
    const out = this.empty(q.shape);
    this.attend(sizes, 1, args.maxSeqlenQ, args.maxSeqlenK, args.attnBackend, (workspace) =>
      this.run((kernels) => kernels.attnVarlen(out, q, k, v, { ...args, causal, blockTables, workspace })),
    );
    return out;
  }

  attnWithKvCache(q: Tensor, kCache: Tensor, vCache: Tensor, args: KvCacheInput): Tensor {
    const sizes = match('attnWithKvCache', {
      q: [q, ['B', 'Hq', 'D']],
      kCache: [kCache, ['NB', 'BS', 'Hkv', 'D']],
      vCache: [vCache, ['NB', 'BS', 'Hkv', 'D']],
      contextLens: [args.contextLens, ['B'], 'int32'],
      blockTables: [args.blockTables, ['B', 'MB'], 'int32'],
    });
    const out = this.empty(q.shape);
    this.attend(sizes, sizes.B, 1, args.maxContextLen, args.attnBackend, (workspace) =>
      this.run((kernels) => kernels.attnWithKvCache(out, q, kCache, vCache, { ...args, workspace })),
    );
    return out;
  }

  gatherRows(x: Tensor, rows: Tensor): Tensor {
    const { R, H } = match('gatherRows', { x: [x, ['T', 'H']], rows: [rows, ['R'], 'int32'] });
    const out = this.empty([R, H]);
    this.run((k) => k.gatherRows(out, x, rows));
    return out;
  }

  gatherTokens(table: Tensor, slots: Tensor): Tensor {
    const { B } = match('gatherTokens', { table: [table, ['S'], 'int32'], slots: [slots, ['B'], 'int32'] });
    const out = this.empty([B], 'int32');
    this.run((k) => k.gatherTokens(out, table, slots));
    return out;
  }

  /** In place on `table`. */
  scatterTokens(table: Tensor, values: Tensor, slots: Tensor): void {
    match('scatterTokens', {
      table: [table, ['S'], 'int32'],
      values: [values, ['B'], 'int32'],
      slots: [slots, ['B'], 'int32'],
    });
    this.run((k) => k.scatterTokens(table, values, slots));
  }

  sample(logits: Tensor, args: SampleArgs): Tensor {
    const { B } = match('sample', {
      logits: [logits, ['B', 'V']],
      temperature: [args.temperature, ['B'], 'float32'],
      topK: [args.topK, ['B'], 'int32'],
      topP: [args.topP, ['B'], 'float32'],
      minP: [args.minP, ['B'], 'float32'],
      seed: [args.seed, ['B', 2], 'int32'],
      position: [args.position, ['B'], 'int32'],
    });
    const out = this.empty([B], 'int32');
    this.run((k) => k.sample(out, logits, args));
    return out;
  }

  /** In place: the sum of all ranks' `x`. */
  allReduce(x: Tensor): void {
    if (this.group.worldSize > 1) this.run(() => this.group.allReduce(x));
  }

  /** Each rank's `[B, W]` → the first `columns` columns of all, side by side: `[B, columns]`. */
  allGatherColumns(x: Tensor, columns: number): Tensor {
    const { worldSize } = this.group;
    if (worldSize === 1) return x;
    const { B, W } = match('allGatherColumns', { x: [x, ['B', 'W']] });
    const out = this.empty([B, columns], x.dtype);
    this.scope(() => {
      const parts = this.empty([worldSize, B, W], x.dtype);
      this.run(() => this.group.allGather(parts, x));
      this.run((k) => k.concatColumns(out, parts));
    });
    return out;
  }

  /** Checks the head counts and makes `sdpa.math`'s dense scratch. */
  private attend(
    { Hq, Hkv, D }: Record<string, number>,
    gathered: number,
    maxQ: number,
    maxK: number,
    attnBackend: AttnBackend,
    body: (workspace: { k: Tensor; v: Tensor; scores: Tensor } | null) => void,
  ): void {
    if (Hq % Hkv !== 0) {
      throw new InvalidTensorError(`attention: ${Hq} query heads cannot share ${Hkv} key/value heads evenly.`);
    }
    this.scope(() => {
      const workspace =
        attnBackend === 'flash'
          ? null
          : {
              k: this.empty([gathered, maxK, Hkv, D], 'float32'),
              v: this.empty([gathered, maxK, Hkv, D], 'float32'),
              scores: this.empty([gathered, Hq, maxQ, maxK], 'float32'),
            };
      body(workspace);
    });
    this.countAttention(attnBackend);
  }
}
