import { Attention, type KvCache } from '#nano/layers/attention';
import { LMHead, VocabEmbedding } from '#nano/layers/embed-head';
import { RMSNorm } from '#nano/layers/layernorm';
import { Linear } from '#nano/layers/linear';
import type { Parameter } from '#nano/layers/parameter';
import { RotaryEmbedding } from '#nano/layers/rotary-embedding';
import type { ModelConfig } from '#nano/models/model-config';
import type { FloatDType } from '#nano/tensor/dtype';
import type { AttnBackend } from '#nano/tensor/kernels';
import type { Ops } from '#nano/tensor/ops';
import type { Tensor } from '#nano/tensor/tensor';
import type { Context } from '#nano/utils/context';

/** What a model needs beside its config to be built. */
export interface BuildOptions {
  readonly dtype: FloatDType;
  readonly attnBackend: AttnBackend;
  /** Positions the rotary table covers. */
  readonly maxModelLen: number;
}

/** Self-attention with grouped key/value heads, and Qwen3's normalisation of each query and key head. */
class Qwen3Attention {
  private readonly qkvProj: Linear;
  private readonly oProj: Linear;
  private readonly qNorm: RMSNorm;
  private readonly kNorm: RMSNorm;
  readonly attn: Attention;

  constructor(
    ops: Ops,
    name: string,
    private readonly config: ModelConfig,
    options: BuildOptions,
    private readonly rotary: RotaryEmbedding,
  ) {
    const { hiddenSize, numAttentionHeads, numKeyValueHeads, headDim, attentionBias, rmsNormEps } = config;
    const [q, kv] = [numAttentionHeads * headDim, numKeyValueHeads * headDim];
    this.qkvProj = new Linear(
      ops,
      hiddenSize,
      [
        { name: `${name}.q_proj`, outputs: q },
        { name: `${name}.k_proj`, outputs: kv },
        { name: `${name}.v_proj`, outputs: kv },
      ],
      options.dtype,
      attentionBias,
    );
    this.oProj = new Linear(ops, q, [{ name: `${name}.o_proj`, outputs: hiddenSize }], options.dtype, attentionBias);
    this.qNorm = new RMSNorm(ops, `${name}.q_norm`, headDim, rmsNormEps);
    this.kNorm = new RMSNorm(ops, `${name}.k_norm`, headDim, rmsNormEps);
    this.attn = new Attention(ops, headDim, options.attnBackend);
  }

  /** `residual[T, H] += attention(norm(residual))` */
  forward(positions: Tensor, residual: Tensor, norm: RMSNorm, context: Context): void {
    const { numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim } = this.config;
    const qkv = this.qkvProj.forward(norm.forward(residual));
    const q = qkv.columns(0, heads * headDim).splitHeads(heads);
    const k = qkv.columns(heads * headDim, kvHeads * headDim).splitHeads(kvHeads);
    const v = qkv.columns((heads + kvHeads) * headDim, kvHeads * headDim).splitHeads(kvHeads);
    const { qNorm, kNorm, rotary } = this;
    const attended = this.attn.forward(q, k, v, { qNorm, kNorm, rotary, positions }, context);
    this.oProj.forward(attended.mergeHeads(), { addTo: residual });
  }

  parameters(): Parameter[] {
    return [this.qkvProj, this.oProj, this.qNorm, this.kNorm].flatMap((layer) => layer.parameters());
  }
}

/** SwiGLU feed-forward: widen, gate, narrow. */
class Qwen3MLP {
  private readonly gateUpProj: Linear;
  private readonly downProj: Linear;

  constructor(ops: Ops, name: string, config: ModelConfig, dtype: FloatDType) {
    const { hiddenSize, intermediateSize } = config;
    this.gateUpProj = new Linear(
      ops,
      hiddenSize,
      [
        { name: `${name}.gate_proj`, outputs: intermediateSize },
        { name: `${name}.up_proj`, outputs: intermediateSize },
      ],
      dtype,
    );
    this.downProj = new Linear(ops, intermediateSize, [{ name: `${name}.down_proj`, outputs: hiddenSize }], dtype);
  }

  /** `residual[T, H] += mlp(norm(residual))` */
  forward(residual: Tensor, norm: RMSNorm): void {
    const gated = this.gateUpProj.forward(norm.forward(residual), { siluAndMul: true });
    this.downProj.forward(gated, { addTo: residual });
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

  forward(positions: Tensor, residual: Tensor, context: Context): void {
    this.ops.scope(() => this.selfAttn.forward(positions, residual, this.inputLayernorm, context));
    this.ops.scope(() => this.mlp.forward(residual, this.postAttentionLayernorm));
  }

  parameters(): Parameter[] {
    return [this.selfAttn, this.mlp, this.inputLayernorm, this.postAttentionLayernorm].flatMap((part) =>
      part.parameters(),
    );
  }
}

/** Qwen3 (dense): embedding, decoder layers, final norm, LM head (Qwen3 technical report, 2025). */
export class Qwen3ForCausalLM {
  private readonly embedTokens: VocabEmbedding;
  private readonly layers: Qwen3DecoderLayer[];
  private readonly norm: RMSNorm;
  private readonly lmHead: LMHead;

  constructor(
    ops: Ops,
    readonly config: ModelConfig,
    options: BuildOptions,
  ) {
    const { vocabSize, hiddenSize, rmsNormEps, headDim, ropeTheta } = config;
    const rotary = new RotaryEmbedding(ops, headDim, options.maxModelLen, ropeTheta);
    this.embedTokens = new VocabEmbedding(ops, 'model.embed_tokens', vocabSize, hiddenSize, options.dtype);
    this.layers = Array.from(
      { length: config.numHiddenLayers },
      (_, i) => new Qwen3DecoderLayer(ops, `model.layers.${i}`, config, options, rotary),
    );
    this.norm = new RMSNorm(ops, 'model.norm', hiddenSize, rmsNormEps);
    const tied = config.tieWordEmbeddings ? this.embedTokens.weight : null;
    this.lmHead = new LMHead(ops, 'lm_head', vocabSize, hiddenSize, options.dtype, tied);
  }

  /** Gives layer i its part of the cache. */
  bindCaches(caches: readonly KvCache[]): void {
    this.layers.forEach((layer, i) => layer.attn.bindCache(caches[i]));
  }

  /** Token ids and positions, int32 `[T]` → final hidden states `[T, H]`. */
  forward(inputIds: Tensor, positions: Tensor, context: Context): Tensor {
    const residual = this.embedTokens.forward(inputIds);
    for (const layer of this.layers) layer.forward(positions, residual, context);
    return this.norm.forward(residual);
  }

  /** `[B, H]` → logits `[B, V]`. */
  computeLogits(hidden: Tensor): Tensor {
    return this.lmHead.forward(hidden);
  }

  parameters(): Parameter[] {
    return [this.embedTokens, ...this.layers, this.norm, this.lmHead].flatMap((part) => part.parameters());
  }
}
