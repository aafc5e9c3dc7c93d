import type { Config } from '#nano/config';
import { DecodeGraph, type DecodeOutput } from '#nano/engine/decode-graph';
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

  private readonly decodeGraph: DecodeGraph;

  constructor(
    private readonly ops: Ops,
    private readonly model: CausalLM,
    private readonly options: RunnerOptions,
  ) {
    const { config, maxModelLen } = options;
    const { maxNumSeqs, kvCacheBlockSize: blockSize, attnBackend, enforceEager } = config;
    this.sampler = new Sampler(ops, config.seed);
    const { numHiddenLayers: layers, numKeyValueHeads, headDim } = model.config;
    const shape = [options.numKvCacheBlocks, blockSize, numKeyValueHeads, headDim];
    const allocate = () => ops.backend.allocate(shape, options.kvCacheDType);
    model.bindCaches(Array.from({ length: layers }, () => ({ k: allocate(), v: allocate() })));
    // The dense gather's scratch grows with the context, and a captured step's may not.
    const capture = !enforceEager && attnBackend !== 'sdpa.math';
    const limits = { maxNumSeqs, maxModelLen, blockSize };
    this.decodeGraph = new DecodeGraph(ops, model, this.sampler, limits, capture);
    ops.reserveFor(() => this.largestSteps());
  }

  /** Runs one step. The caller schedules; nothing here changes a sequence. */
  async run(batch: Batch): Promise<StepResult> {
    // Only sequences whose last known token is in this step have logits to draw from.
    const drawing = [...batch.seqs.keys()].filter((i) => isComplete(batch.seqs[i]));
    const wantsLogprobs = drawing.some((i) => batch.seqs[i].samplingParams.logprobs !== undefined);
    const { backend } = this.ops;
    const read = ({ tokens, logits }: DecodeOutput) => ({
      tokens: backend.read(tokens),
      logits: wantsLogprobs ? backend.read(logits) : null,
    });
    const pending = batch.isPrefill ? this.prefill(batch.seqs, drawing, read) : this.decodeGraph.run(batch.seqs, read);
    const tokenIds = new Int32Array(batch.seqs.length);
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

  /** Computes the scheduled tokens of all sequences, packed one after the other; draws for those in `drawing`. */
  private prefill<R>(
    seqs: readonly Sequence[],
    drawing: readonly number[],
    use: (output: DecodeOutput) => R,
  ): R | null {
    return this.ops.scope(() => {
      const { inputIds, positions, context, lastRows } = this.preparePrefill(seqs);
      const hidden = this.model.forward(inputIds, positions, context);
      if (drawing.length === 0) return null;
      const rows = this.ops.fromHost(Int32Array.from(drawing, (i) => lastRows[i]));
      const logits = this.model.computeLogits(this.ops.gatherRows(hidden, rows));
      const values = this.sampler.valuesFor(drawing.map((i) => seqs[i]));
      const args = this.sampler.argsBy(drawing.length, (shape, _, name) => this.ops.fromHost(values[name], shape));
      return use({ logits, tokens: this.sampler.forward(logits, args) });
    });
  }

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
    const { values, width } = padBlockTables(seqs.map((seq) => seq.blockTable));
    const context: Context = {
      isPrefill: true,
      slotMapping: this.ints(slots),
      blockTables: this.ops.fromHost(values, [seqs.length, width]),
      cuSeqlensQ: this.ops.fromHost(cuSeqlensQ),
      cuSeqlensK: this.ops.fromHost(cumulativeLengths(lengthsK)),
      maxSeqlenQ: Math.max(...lengthsQ),
      maxSeqlenK: Math.max(...lengthsK),
    };
    const lastRows = seqs.map((_, b) => cuSeqlensQ[b + 1] - 1);
    return { inputIds: this.ints(ids), positions: this.ints(positions), context, lastRows };
  }

  private ints(values: readonly number[]): Tensor {
    return this.ops.fromHost(Int32Array.from(values));
  }

  /** The two largest steps there can be, for measuring: a full prefill batch, and a full decode batch. */
  private largestSteps(): void {
    const { config, maxModelLen } = this.options;
    const { maxNumBatchedTokens: tokens, maxNumSeqs: sequences, kvCacheBlockSize } = config;
    const ints = (...shape: number[]) => this.ops.empty(shape, 'int32');
    this.ops.scope(() => {
      const context: Context = {
        isPrefill: true,
        slotMapping: ints(tokens),
        blockTables: ints(sequences, Math.ceil(maxModelLen / kvCacheBlockSize)),
        cuSeqlensQ: ints(sequences + 1),
        cuSeqlensK: ints(sequences + 1),
        maxSeqlenQ: Math.min(tokens, maxModelLen),
        maxSeqlenK: maxModelLen,
      };
      const hidden = this.model.forward(ints(tokens), ints(tokens), context);
      const logits = this.model.computeLogits(this.ops.gatherRows(hidden, ints(sequences)));
      this.sampler.forward(
        logits,
        this.sampler.argsBy(sequences, (shape, dtype) => this.ops.empty(shape, dtype)),
      );
    });
    this.ops.scope(() => this.decodeGraph.step(sequences));
  }
}

/** Whether the step computes the sequence's last known token, so that a new one can be drawn. */
function isComplete(seq: Sequence): boolean {
  return seq.numCachedTokens + seq.numScheduledTokens >= seq.numTokens;
}
