// Exercise made from src/models/qwen3.ts by `npm run days`, which keeps what you write. [721628f274461584]
import { Attention, type KvCache } from '#nano/layers/attention';
import { ParallelLMHead, VocabParallelEmbedding } from '#nano/layers/embed-head';
import { RMSNorm } from '#nano/layers/layernorm';
import { MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear } from '#nano/layers/linear';
import type { Parameter } from '#nano/layers/parameter';
import { RotaryEmbedding } from '#nano/layers/rotary-embedding';
import type { ModelConfig } from '#nano/models/model-config';
import type { FloatDType } from '#nano/tensor/dtype';
import type { AttnBackend } from '#nano/tensor/kernels';
import type { Ops } from '#nano/tensor/ops';
import type { Tensor } from '#nano/tensor/tensor';
import type { Context } from '#nano/utils/context';
import { TodoError } from '#nano/utils/todo';

/** What a model needs beside its config to be built. */
export interface BuildOptions {
  readonly dtype: FloatDType;
  readonly attnBackend: AttnBackend;
  /** Positions the rotary table covers. */
  readonly maxModelLen: number;
}

/**
 * Self-attention with grouped key/value heads, and Qwen3's normalisation of each query and key head. On several ranks each has
 * some of the heads.
 */
class Qwen3Attention {
  private readonly qkvProj: QKVParallelLinear;
  private readonly oProj: RowParallelLinear;
  private readonly qNorm: RMSNorm;
  private readonly kNorm: RMSNorm;
  readonly attn: Attention;

  constructor(
    ops: Ops,
    name: string,
    private readonly config: ModelConfig,
    { dtype, attnBackend }: BuildOptions,
    private readonly rotary: RotaryEmbedding,
  ) {
    const { hiddenSize, numAttentionHeads, headDim, attentionBias: hasBias, rmsNormEps } = config;
    this.qkvProj = new QKVParallelLinear(ops, hiddenSize, name, config, { dtype, hasBias });
    const output = { name: `${name}.o_proj`, outputs: hiddenSize };
    this.oProj = new RowParallelLinear(ops, numAttentionHeads * headDim, output, { dtype, hasBias });
    this.qNorm = new RMSNorm(ops, `${name}.q_norm`, headDim, rmsNormEps);
    this.kNorm = new RMSNorm(ops, `${name}.k_norm`, headDim, rmsNormEps);
    this.attn = new Attention(ops, headDim, attnBackend);
  }

  /**
   * `residual[T, H] += o_proj(attention(q, k, v))`, with q, k and v projected from `norm(residual)`. A row of what `qkvProj` gives is
   * all query heads, then all key heads, then all value heads, of `headDim` numbers each.
   */
  forward(positions: Tensor, residual: Tensor, norm: RMSNorm, context: Context): void {
    // TODO 2.6 (about 9 lines)
    // The projection knows how many heads this rank has: `qkvProj.numHeads` and `numKvHeads`; `config.headDim` is their size.
    // Cut q, k and v out with `columns(first, count)` and `splitHeads(heads)`: views, no copies.
    // `attn.forward` normalises and rotates q and k itself: it only needs to be given qNorm, kNorm, rotary and positions.
    // It returns `[T, heads, headDim]`; `mergeHeads()` is the inverse of `splitHeads`. Look at what `oProj.addTo` does.
    throw new TodoError('2.6', 'days/day2/qwen3.ts');
  }

  parameters(): Parameter[] {
    return [this.qkvProj, this.oProj, this.qNorm, this.kNorm].flatMap((layer) => layer.parameters());
  }
}

/** SwiGLU feed-forward: widen, gate, narrow. On several ranks each has some of the wide middle. */
class Qwen3MLP {
  private readonly gateUpProj: MergedColumnParallelLinear;
  private readonly downProj: RowParallelLinear;

  constructor(ops: Ops, name: string, config: ModelConfig, dtype: FloatDType) {
    const { hiddenSize, intermediateSize } = config;
    const wide = ['gate', 'up'].map((part) => ({ name: `${name}.${part}_proj`, outputs: intermediateSize }));
    const narrow = { name: `${name}.down_proj`, outputs: hiddenSize };
    this.gateUpProj = new MergedColumnParallelLinear(ops, hiddenSize, wide, { dtype });
    this.downProj = new RowParallelLinear(ops, intermediateSize, narrow, { dtype });
  }

  /** `residual[T, H] += down(silu(gate(x)) · up(x))`, with x = norm(residual) */
  forward(residual: Tensor, norm: RMSNorm): void {
    // TODO 2.6 (2 lines)
    // `gateUpProj` is gate and up in one; its `forward` has an option for what happens between the two halves.
    throw new TodoError('2.6', 'days/day2/qwen3.ts');
  }

  parameters(): Parameter[] {
    return [...this.gateUpProj.parameters(), ...this.downProj.parameters()];
  }
}

/**
 * One stream, `residual[T, H]`, flows through all layers; each block reads it through a norm and adds its result to it
 * ("pre-norm"). All other tensors are temporary and end with their block's scope, so that a step needs the memory of one
 * block, not of all.
 */
class Qwen3DecoderLayer {
  private readonly selfAttn: Qwen3Attention;
  private readonly mlp: Qwen3MLP;
  private readonly inputLayernorm: RMSNorm;
  private readonly postAttentionLayernorm: RMSNorm;

  constructor(
    private readonly ops: Ops,
    name: string,
    config: ModelConfig,
    options: BuildOptions,
    rotary: RotaryEmbedding,
  ) {
    this.selfAttn = new Qwen3Attention(ops, `${name}.self_attn`, config, options, rotary);
    this.mlp = new Qwen3MLP(ops, `${name}.mlp`, config, options.dtype);
    this.inputLayernorm = new RMSNorm(ops, `${name}.input_layernorm`, config.hiddenSize, config.rmsNormEps);
    this.postAttentionLayernorm = new RMSNorm(
      ops,
      `${name}.post_attention_layernorm`,
      config.hiddenSize,
      config.rmsNormEps,
    );
  }

  get attn(): Attention {
    return this.selfAttn.attn;
  }

  /** Attention, then MLP: each reads `residual[T, H]` through its own norm, adds to it in place, and has a scope of its own. */
  forward(positions: Tensor, residual: Tensor, context: Context): void {
    // TODO 2.6 (2 lines)
    // What `this.ops.scope(() => …)` allocates is given back when it ends. The residual is older, and stays.
    throw new TodoError('2.6', 'days/day2/qwen3.ts');
  }

  parameters(): Parameter[] {
    return [this.selfAttn, this.mlp, this.inputLayernorm, this.postAttentionLayernorm].flatMap((part) =>
      part.parameters(),
    );
  }
}

/** Qwen3 (dense): embedding, decoder layers, final norm, LM head (Qwen3 technical report, 2025). */
export class Qwen3ForCausalLM {
  private readonly embedTokens: VocabParallelEmbedding;
  private readonly layers: Qwen3DecoderLayer[];
  private readonly norm: RMSNorm;
  private readonly lmHead: ParallelLMHead;

  constructor(
    ops: Ops,
    readonly config: ModelConfig,
    options: BuildOptions,
  ) {
    const { vocabSize, hiddenSize, rmsNormEps, headDim, ropeTheta } = config;
    const rotary = new RotaryEmbedding(ops, headDim, options.maxModelLen, ropeTheta);
    this.embedTokens = new VocabParallelEmbedding(ops, 'model.embed_tokens', vocabSize, hiddenSize, options.dtype);
    this.layers = Array.from(
      { length: config.numHiddenLayers },
      (_, i) => new Qwen3DecoderLayer(ops, `model.layers.${i}`, config, options, rotary),
    );
    this.norm = new RMSNorm(ops, 'model.norm', hiddenSize, rmsNormEps);
    const tied = config.tieWordEmbeddings ? this.embedTokens.weight : null;
    this.lmHead = new ParallelLMHead(ops, 'lm_head', vocabSize, hiddenSize, options.dtype, tied);
  }

  /** Gives layer i its part of the cache. */
  bindCaches(caches: readonly KvCache[]): void {
    this.layers.forEach((layer, i) => layer.attn.bindCache(caches[i]));
  }

  /** Token ids and positions, int32 `[T]` → final hidden states `[T, H]`. */
  forward(inputIds: Tensor, positions: Tensor, context: Context): Tensor {
    // TODO 2.6 (3 lines)
    // The embedding begins the residual stream, every layer adds to it in place, the norm ends it.
    throw new TodoError('2.6', 'days/day2/qwen3.ts');
  }

  /** `[B, H]` → logits `[B, V]`. */
  computeLogits(hidden: Tensor): Tensor {
    return this.lmHead.forward(hidden);
  }

  parameters(): Parameter[] {
    return [this.embedTokens, ...this.layers, this.norm, this.lmHead].flatMap((part) => part.parameters());
  }
}
