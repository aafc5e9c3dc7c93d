import type { Config } from '#nano/config';
import { type TokenLogprobs, tokenLogprobs } from '#nano/engine/logprobs';
import type { Batch } from '#nano/engine/scheduler';
import type { Sequence } from '#nano/engine/sequence';
import { Sampler } from '#nano/layers/sampler';
import type { CausalLM } from '#nano/models/registry';
import type { FloatDType } from '#nano/tensor/dtype';
import type { Ops } from '#nano/tensor/ops';
import type { Tensor } from '#nano/tensor/tensor';
import { type Context, cumulativeLengths, padBlockTables, slotsFor } from '#nano/utils/context';

export interface StepResult {
  /** The token drawn for each sequence of the batch; 0 and unused where the prompt is not complete yet. */
  readonly tokenIds: Int32Array;
  /** For sequences that asked, by their place in the batch. */
  readonly logprobs: ReadonlyMap<number, TokenLogprobs>;
}

export interface RunnerOptions {
  readonly config: Config;
  readonly maxModelLen: number;
  readonly numKvCacheBlocks: number;
  readonly kvCacheDType: FloatDType;
}

/** Turns a scheduled batch into packed tensors, runs the model and draws the next tokens. Owns the KV cache. */
export class ModelRunner {
  private readonly sampler: Sampler;

  constructor(
    private readonly ops: Ops,
    private readonly model: CausalLM,
    private readonly options: RunnerOptions,
  ) {
    this.sampler = new Sampler(ops, options.config.seed);
    const { numHiddenLayers: layers, numKeyValueHeads, headDim } = model.config;
    const shape = [options.numKvCacheBlocks, options.config.kvCacheBlockSize, numKeyValueHeads, headDim];
    const allocate = () => ops.backend.allocate(shape, options.kvCacheDType);
    model.bindCaches(Array.from({ length: layers }, () => ({ k: allocate(), v: allocate() })));
    ops.reserveFor(() => this.largestSteps());
  }

  /** Runs one step. The caller schedules; nothing here changes a sequence. */
  async run(batch: Batch): Promise<StepResult> {
    const tokenIds = new Int32Array(batch.seqs.length);
    // Only sequences whose last known token is in this step have logits to draw from.
    const drawing = [...batch.seqs.keys()].filter((i) => isComplete(batch.seqs[i]));
    const pending = this.ops.scope(() => {
      const logits = this.forward(batch, drawing);
      if (!logits) return null;
      const seqs = drawing.map((i) => batch.seqs[i]);
      const wantsLogprobs = seqs.some((seq) => seq.samplingParams.logprobs !== undefined);
      return {
        tokens: this.ops.backend.read(this.sampler.forward(logits, seqs)),
        logits: wantsLogprobs ? this.ops.backend.read(logits) : null,
      };
    });
    const logprobs = new Map<number, TokenLogprobs>();
    if (pending) {
      const [tokens, logits] = await Promise.all([pending.tokens, pending.logits]);
      const vocab = this.model.config.vocabSize;
      drawing.forEach((i, row) => {
        tokenIds[i] = tokens[row];
        const { logprobs: count } = batch.seqs[i].samplingParams;
        if (logits && count !== undefined) {
          const scores = logits.subarray(row * vocab, (row + 1) * vocab) as Float32Array;
          logprobs.set(i, tokenLogprobs(scores, tokens[row], count));
        }
      });
    }
    return { tokenIds, logprobs };
  }

  /** Logits `[drawing.length, V]` of the last token of each sequence in `drawing`; null when there are none. */
  private forward(batch: Batch, drawing: readonly number[]): Tensor | null {
    const { inputIds, positions, context, lastRows } = batch.isPrefill
      ? this.preparePrefill(batch.seqs)
      : this.prepareDecode(batch.seqs);
    const hidden = this.model.forward(inputIds, positions, context);
    if (drawing.length === 0) return null;
    if (!batch.isPrefill) return this.model.computeLogits(hidden);
    const rows = this.ops.fromHost(Int32Array.from(drawing, (i) => lastRows[i]));
    return this.model.computeLogits(this.ops.gatherRows(hidden, rows));
  }

  /** Packs the scheduled tokens of all sequences one after the other. */
  private preparePrefill(seqs: readonly Sequence[]) {
    const ids: number[] = [];
    const positions: number[] = [];
    const slots: number[] = [];
    for (const seq of seqs) {
      const start = seq.numCachedTokens;
      const end = start + seq.numScheduledTokens;
      for (let i = start; i < end; i++) {
        ids.push(seq.tokenIds[i]);
        positions.push(i);
      }
      slots.push(...slotsFor(seq.blockTable, start, end, this.options.config.kvCacheBlockSize));
    }
    const lengthsQ = seqs.map((seq) => seq.numScheduledTokens);
    const lengthsK = seqs.map((seq) => seq.numCachedTokens + seq.numScheduledTokens);
    const cuSeqlensQ = cumulativeLengths(lengthsQ);
    const context: Context = {
      isPrefill: true,
      slotMapping: this.ints(slots),
      blockTables: this.blockTables(seqs),
      cuSeqlensQ: this.ops.fromHost(cuSeqlensQ),
      cuSeqlensK: this.ops.fromHost(cumulativeLengths(lengthsK)),
      maxSeqlenQ: Math.max(...lengthsQ),
      maxSeqlenK: Math.max(...lengthsK),
    };
    const lastRows = seqs.map((_, b) => cuSeqlensQ[b + 1] - 1);
    return { inputIds: this.ints(ids), positions: this.ints(positions), context, lastRows };
  }

  /** One token a sequence: its last, whose key and value are not in the cache yet. */
  private prepareDecode(seqs: readonly Sequence[]) {
    const blockSize = this.options.config.kvCacheBlockSize;
    const lengths = seqs.map((seq) => seq.numTokens);
    const context: Context = {
      isPrefill: false,
      slotMapping: this.ints(seqs.flatMap((s) => slotsFor(s.blockTable, s.numTokens - 1, s.numTokens, blockSize))),
      blockTables: this.blockTables(seqs),
      contextLens: this.ints(lengths),
      maxContextLen: Math.max(...lengths),
    };
    return {
      inputIds: this.ints(seqs.map((seq) => seq.lastToken)),
      positions: this.ints(seqs.map((seq) => seq.numTokens - 1)),
      context,
      lastRows: seqs.map((_, b) => b),
    };
  }

  private ints(values: readonly number[]): Tensor {
    return this.ops.fromHost(Int32Array.from(values));
  }

  private blockTables(seqs: readonly Sequence[]): Tensor {
    const { values, width } = padBlockTables(seqs.map((seq) => seq.blockTable));
    return this.ops.fromHost(values, [seqs.length, width]);
  }

  /** The two largest steps there can be, for measuring: a full prefill batch, and a full decode batch. */
  private largestSteps(): void {
    const { config, maxModelLen } = this.options;
    const { maxNumBatchedTokens: T, maxNumSeqs: B } = config;
    const tables = { slotMapping: this.ops.empty([T], 'int32'), blockTables: this.largestTables(B) };
    const step = (context: Context, tokens: number, sequences: number) =>
      this.ops.scope(() => {
        const ints = () => this.ops.empty([tokens], 'int32');
        const hidden = this.model.forward(ints(), ints(), context);
        const logits = this.model.computeLogits(this.ops.gatherRows(hidden, this.ops.empty([sequences], 'int32')));
        this.sampler.measure(logits);
      });
    const cuSeqlens = () => this.ops.empty([B + 1], 'int32');
    const prefill = { cuSeqlensQ: cuSeqlens(), cuSeqlensK: cuSeqlens(), maxSeqlenQ: Math.min(T, maxModelLen) };
    step({ isPrefill: true, ...tables, ...prefill, maxSeqlenK: maxModelLen }, T, B);
    const slotMapping = this.ops.empty([B], 'int32');
    const decode = { contextLens: this.ops.empty([B], 'int32'), maxContextLen: maxModelLen };
    step({ isPrefill: false, ...tables, slotMapping, ...decode }, B, B);
  }

  private largestTables(sequences: number): Tensor {
    const { config, maxModelLen } = this.options;
    return this.ops.empty([sequences, Math.ceil(maxModelLen / config.kvCacheBlockSize)], 'int32');
  }
}

/** Whether the step computes the sequence's last known token, so that a new one can be drawn. */
function isComplete(seq: Sequence): boolean {
  return seq.numCachedTokens + seq.numScheduledTokens >= seq.numTokens;
}
