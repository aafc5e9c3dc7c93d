// Exercise made from src/engine/model-runner.ts by `npm run days`, which keeps what you write. [718c19bac4c2e223]
import type { Config } from '#nano/config';
import { kvHeadShard } from '#nano/distributed/shards';
import { DecodeGraph, type DecodeOutput } from '#nano/engine/decode-graph';
import { type TokenLogprobs, tokenLogprobs } from '#nano/engine/logprobs';
import { Sequence } from '#nano/engine/sequence';
import type { Step, StepSequence } from '#nano/engine/step';
import { Sampler } from '#nano/layers/sampler';
import type { CausalLM } from '#nano/models/registry';
import type { FloatDType } from '#nano/tensor/dtype';
import type { Ops } from '#nano/tensor/ops';
import { Tensor } from '#nano/tensor/tensor';
import { type Context, cumulativeLengths, padBlockTables, slotsFor } from '#nano/utils/context';
import { TodoError } from '#nano/utils/todo';

export interface StepResult {
  /**
   * The tokens drawn for the first `numDrawing` sequences of the step. There may be more entries, which mean
   * nothing.
   */
  readonly tokenIds: ArrayLike<number>;
  /** For sequences that asked, by their place in the batch. */
  readonly logprobs: ReadonlyMap<number, TokenLogprobs>;
}

/**
 * Inputs of a prefill step: the planned tokens of all its sequences, packed one after the other without padding. T such
 * tokens, B sequences.
 */
export interface PackedPrefill {
  /** `[T]`: the tokens. */
  readonly inputIds: Int32Array;
  /** `[T]`: the place of each in its own sequence, from 0. */
  readonly positions: Int32Array;
  /** `[T]`: the cache slot its key and value go to. */
  readonly slotMapping: Int32Array;
  /** `[B + 1]`: new tokens of sequence b are rows `cuSeqlensQ[b] … cuSeqlensQ[b+1] - 1`. */
  readonly cuSeqlensQ: Int32Array;
  /** `[B + 1]`: the same for the keys they look back at, which are those in the cache and their own. */
  readonly cuSeqlensK: Int32Array;
  /** The most new tokens, and the most keys, that a sequence has. */
  readonly maxSeqlenQ: number;
  readonly maxSeqlenK: number;
  /** `[B]`: the row of each sequence's last new token, which its next token follows from. */
  readonly lastRows: Int32Array;
}

/** Packs the next `numScheduledTokens` tokens of each sequence, which come after the `numCachedTokens` in the cache. */
export function packPrefill(seqs: readonly StepSequence[], blockSize: number): PackedPrefill {
  // TODO 4.6 (about 20 lines)
  // Token i of a sequence is `tokenIds[i]`, at position i, whatever was computed before. The new ones are
  // i = numCachedTokens … numCachedTokens + numScheduledTokens - 1.
  // `cumulativeLengths` and `slotsFor` are those of Day 1. Row `cuSeqlensQ[b]` is where sequence b begins.
  throw new TodoError('4.6', 'days/day4/model-runner.ts');
}

export interface RunnerOptions {
  readonly config: Config;
  readonly maxModelLen: number;
  readonly kvCacheDType: FloatDType;
  /** For tests, which make many runners: no warm-up where there would be one. */
  readonly skipWarmUp?: boolean;
  /** For tests: pad decode batches also where there are no device graphs. */
  readonly padDecodeBatches?: boolean;
}

/** Transfers under way. */
interface Reads {
  readonly tokens: Promise<Float32Array | Int32Array>;
  readonly logits: Promise<Float32Array | Int32Array> | null;
}

const NOTHING_TO_READ: Reads = { tokens: Promise.resolve(new Int32Array()), logits: null };
const WARM_UP_TOKENS = 512;
const WARM_UP_STEPS = 32; // after fewer, JavaScript's optimising compiler is still at work

/**
 * Turns a scheduled batch into packed tensors, runs the model and draws the next tokens. Owns the KV cache, which it is given
 * last ({@link allocateKvCache}): what weights and activations leave of the memory is the cache's.
 */
export class ModelRunner {
  private readonly sampler: Sampler;
  /** int32 `[maxNumSeqs]`: the last token drawn for the sequence in each token slot. */
  private readonly lastTokens: Tensor;
  private readonly decodeGraph: DecodeGraph;

  constructor(
    private readonly ops: Ops,
    private readonly model: CausalLM,
    private readonly options: RunnerOptions,
  ) {
    const { config, maxModelLen } = options;
    const { maxNumSeqs, kvCacheBlockSize: blockSize, attnBackend, enforceEager } = config;
    this.sampler = new Sampler(ops, config.seed);
    // The dense gather's scratch grows with the context, and a captured step's may not.
    const capture = !enforceEager && attnBackend !== 'sdpa.math';
    const mode = { capture, pad: options.padDecodeBatches ?? false };
    this.lastTokens = ops.backend.allocate([maxNumSeqs], 'int32');
    const limits = { maxNumSeqs, maxModelLen, blockSize };
    this.decodeGraph = new DecodeGraph(ops, model, this.sampler, this.lastTokens, limits, mode);
    // Measuring needs the cache's shape, not its memory.
    this.bindCaches(1, (shape) => new Tensor({ alive: true }, shape, options.kvCacheDType));
    ops.reserveFor(() => this.largestSteps());
  }

  /** Gives the model a cache of this many blocks, and captures its decode steps. To be called once, before the first step. */
  allocateKvCache(numBlocks: number): void {
    this.bindCaches(numBlocks, (shape) => this.ops.backend.allocate(shape, this.options.kvCacheDType));
    this.decodeGraph.captureAll();
    if (this.ops.backend.isAsync && !this.options.skipWarmUp) this.warmUp();
  }

  /**
   * A few steps over a made-up prompt. What comes first pays for much: a GPU loads kernels when they are first called, libraries choose
   * algorithms, and JavaScript's compiler has not seen our code run. Without this the first request would wait for it.
   */
  private warmUp(): void {
    const { config, maxModelLen } = this.options;
    const length = Math.min(WARM_UP_TOKENS, config.maxNumBatchedTokens, maxModelLen);
    const seq = new Sequence(new Array(length).fill(0), undefined, config.kvCacheBlockSize);
    seq.numScheduledTokens = length;
    seq.tokenSlot = 0;
    seq.blockTable = new Array(seq.numBlocks).fill(0); // block 0 is nobody's yet, and may hold anything
    for (let i = 0; i < WARM_UP_STEPS; i++) {
      this.prefill([seq], [seq], () => NOTHING_TO_READ);
      this.decodeGraph.run([seq], () => NOTHING_TO_READ);
    }
  }

  private bindCaches(numBlocks: number, allocate: (shape: readonly number[]) => Tensor): void {
    const { numHiddenLayers: layers, numKeyValueHeads, headDim } = this.model.config;
    const { count: heads } = kvHeadShard(numKeyValueHeads, this.ops.group);
    const shape = [numBlocks, this.options.config.kvCacheBlockSize, heads, headDim];
    this.model.bindCaches(Array.from({ length: layers }, () => ({ k: allocate(shape), v: allocate(shape) })));
  }

  /**
   * Launches one step and starts reading its results; where the backend is asynchronous, both go on while the caller
   * does. The caller schedules; nothing here changes a sequence. On several ranks all must launch the same steps.
   * @returns the results, once they are there.
   * @throws when the step cannot be launched; what fails later rejects the promise.
   */
  launch(step: Step): Promise<StepResult> {
    const drawing = step.seqs.slice(0, step.numDrawing);
    const wantsLogprobs = drawing.some((seq) => seq.samplingParams.logprobs !== undefined);
    const { backend } = this.ops;
    const read = ({ tokens, logits }: DecodeOutput): Reads => ({
      tokens: backend.read(tokens),
      logits: wantsLogprobs ? backend.read(logits) : null,
    });
    const reads = step.isPrefill ? this.prefill(step.seqs, drawing, read) : this.decodeGraph.run(drawing, read);
    return this.collect(drawing, reads);
  }

  /** Gives back what the device holds for this runner beside memory. */
  close(): void {
    this.decodeGraph.close();
  }

  private async collect(drawing: readonly StepSequence[], reads: Reads): Promise<StepResult> {
    const [tokens, logits] = await Promise.all([reads.tokens, reads.logits]);
    const logprobs = new Map<number, TokenLogprobs>();
    if (logits) {
      const vocab = this.model.config.vocabSize;
      drawing.forEach(({ samplingParams }, i) => {
        if (samplingParams.logprobs === undefined) return;
        const scores = logits.subarray(i * vocab, (i + 1) * vocab) as Float32Array;
        logprobs.set(i, tokenLogprobs(scores, tokens[i], samplingParams.logprobs));
      });
    }
    return { tokenIds: tokens, logprobs };
  }

  /** Computes the scheduled tokens of all sequences, packed one after the other; draws for those in `drawing`. */
  private prefill(
    seqs: readonly StepSequence[],
    drawing: readonly StepSequence[],
    read: (output: DecodeOutput) => Reads,
  ): Reads {
    return this.ops.scope(() => {
      const { inputIds, positions, context, lastRows } = this.preparePrefill(seqs);
      const hidden = this.model.forward(inputIds, positions, context);
      // Nothing is drawn; but to read anything tells when the step is done, and whether it failed.
      if (drawing.length === 0) return { tokens: this.ops.backend.read(context.cuSeqlensQ), logits: null };
      const rows = this.ops.fromHost(lastRows.subarray(0, drawing.length));
      const logits = this.model.computeLogits(this.ops.gatherRows(hidden, rows));
      const values = this.sampler.argsBy(drawing.length, ([count, words = 1], dtype) =>
        dtype === 'int32' ? new Int32Array(count * words) : new Float32Array(count),
      );
      this.sampler.fill(values, drawing);
      const args = this.sampler.argsBy(drawing.length, (shape, _, name) => this.ops.fromHost(values[name], shape));
      const tokens = this.sampler.forward(logits, args);
      const tokenSlots = this.ops.fromHost(Int32Array.from(drawing, (seq) => seq.tokenSlot));
      this.ops.scatterTokens(this.lastTokens, tokens, tokenSlots);
      return read({ logits, tokens });
    });
  }

  /** Sends a prefill step's inputs to the device. */
  private preparePrefill(seqs: readonly StepSequence[]) {
    const { ops } = this;
    const packed = packPrefill(seqs, this.options.config.kvCacheBlockSize);
    const { values, width } = padBlockTables(seqs.map((seq) => seq.blockTable));
    const context = {
      isPrefill: true,
      slotMapping: ops.fromHost(packed.slotMapping),
      blockTables: ops.fromHost(values, [seqs.length, width]),
      cuSeqlensQ: ops.fromHost(packed.cuSeqlensQ),
      cuSeqlensK: ops.fromHost(packed.cuSeqlensK),
      maxSeqlenQ: packed.maxSeqlenQ,
      maxSeqlenK: packed.maxSeqlenK,
    } satisfies Context;
    const [inputIds, positions] = [ops.fromHost(packed.inputIds), ops.fromHost(packed.positions)];
    return { inputIds, positions, context, lastRows: packed.lastRows };
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
      const args = this.sampler.argsBy(sequences, (shape, dtype) => this.ops.empty(shape, dtype));
      this.ops.scatterTokens(this.lastTokens, this.sampler.forward(logits, args), ints(sequences));
    });
    this.decodeGraph.largestStep();
  }
}
