// Exercise made from src/engine/decode-graph.ts by `npm run days`, which keeps what you write. [60f6be82e911fdc3]
import { DecodeBuffers, DecodeInputs, type DecodeLimits } from '#nano/engine/decode-inputs';
import type { StepSequence } from '#nano/engine/step';
import type { Sampler } from '#nano/layers/sampler';
import type { CausalLM } from '#nano/models/registry';
import type { Ops } from '#nano/tensor/ops';
import type { Recording } from '#nano/tensor/recording';
import type { Tensor } from '#nano/tensor/tensor';
import { TodoError } from '#nano/utils/todo';

/** Recordings kept where there are no device graphs; the one used longest ago makes room. */
const MAX_RECORDINGS = 32;

export interface DecodeOutput {
  /** int32 `[B]`; where the batch was padded, more rows than there are sequences. */
  readonly tokens: Tensor;
  /** `[B, V]` */
  readonly logits: Tensor;
}

export interface DecodeMode {
  /** Capture each step and replay it, or run its operations one by one. */
  readonly capture: boolean;
  /**
   * Captured steps exist for {@link graphBatchSizes} alone, and smaller batches are padded. Always so where the
   * device has graphs, which take memory and time to make; elsewhere padding only costs.
   */
  readonly pad: boolean;
}

interface Captured {
  readonly inputs: DecodeInputs;
  readonly recording: Recording<DecodeOutput>;
}

/**
 * Decode steps, from the last tokens through the next ones, captured once for each batch size and replayed.
 */
export class DecodeGraph {
  private readonly buffers: DecodeBuffers;
  private readonly captured = new Map<number, Captured>();
  private readonly sizes: readonly number[];
  private readonly hasDeviceGraphs: boolean;

  constructor(
    private readonly ops: Ops,
    private readonly model: CausalLM,
    private readonly sampler: Sampler,
    /** int32 `[S]`: the last token of the sequence in each token slot. Steps read it and write it. */
    private readonly lastTokens: Tensor,
    private readonly limits: DecodeLimits,
    private readonly mode: DecodeMode,
  ) {
    this.buffers = new DecodeBuffers(ops.backend, sampler, limits);
    this.hasDeviceGraphs = ops.backend.captureGraph !== undefined;
    this.sizes = graphBatchSizes(limits.maxNumSeqs);
  }

  /**
   * One token for each sequence: computes its last, whose key and value are not in the cache yet, and draws the next.
   */
  run<R>(seqs: readonly StepSequence[], use: (output: DecodeOutput) => R): R {
    if (!this.mode.capture) {
      const inputs = new DecodeInputs(this.buffers, seqs.length);
      inputs.write(seqs);
      const longest = seqs.reduce((most, seq) => Math.max(most, seq.numTokens), 0);
      return this.ops.scope(() => use(this.step(inputs, longest)));
    }
    // TODO 6.6 (3 lines)
    // How many rows (`rowsFor`), which captured step (`capturedFor`), new values into its inputs, replay.
    throw new TodoError('6.6', 'days/day6/decode-graph.ts');
  }

  /** Captures all sizes where the device has graphs, the largest first: what it needs, the smaller ones can share. */
  captureAll(): void {
    if (!this.mode.capture || !this.hasDeviceGraphs) return;
    for (const size of [...this.sizes].reverse()) this.capturedFor(size);
  }

  /** The largest step there can be, for measuring. */
  largestStep(): void {
    this.ops.scope(() => this.step(new DecodeInputs(this.buffers, this.limits.maxNumSeqs), this.limits.maxModelLen));
  }

  close(): void {
    for (const { recording } of this.captured.values()) recording.free();
    this.captured.clear();
  }

  /** The step itself; no context is longer than `maxContextLen`. */
  private step(inputs: DecodeInputs, maxContextLen: number): DecodeOutput {
    const tokenSlots = inputs.tokenSlots.device;
    const inputIds = this.ops.gatherTokens(this.lastTokens, tokenSlots);
    const hidden = this.model.forward(inputIds, inputs.positions.device, {
      isPrefill: false,
      slotMapping: inputs.slotMapping.device,
      blockTables: inputs.blockTables.device,
      contextLens: inputs.contextLens.device,
      maxContextLen,
    });
    const logits = this.model.computeLogits(hidden);
    const tokens = this.sampler.forward(logits, inputs.sampleArgs);
    this.ops.scatterTokens(this.lastTokens, tokens, tokenSlots);
    return { logits, tokens };
  }

  /** Rows of the step that `count` sequences take part in: where batches are padded, the smallest of `sizes` that holds them all. */
  private rowsFor(count: number): number {
    // TODO 6.6 (about 2 lines)
    // Padded is where `mode.pad` says so, and always where the device has graphs. `sizes` ascends.
    throw new TodoError('6.6', 'days/day6/decode-graph.ts');
  }

  /** The captured step of so many rows; captured now if it is not there yet. */
  private capturedFor(rows: number): Captured {
    const captured = this.captured.get(rows) ?? this.captureStep(rows);
    this.captured.delete(rows);
    this.captured.set(rows, captured); // a Map keeps insertion order: the last is the most recently used
    const [oldest] = this.captured.keys();
    if (this.captured.size > MAX_RECORDINGS && !this.hasDeviceGraphs) this.captured.delete(oldest);
    return captured;
  }

  /**
   * Captures a step of so many rows, which later replays use for any sequences: what concerns them may not be captured, and nor may the
   * length of the longest, whose place is taken by the longest there can be. To capture may mean to run the step once, so the
   * inputs hold padding then, which leaves no trace.
   */
  private captureStep(rows: number): Captured {
    // TODO 6.6 (about 3 lines)
    // `new DecodeInputs(this.buffers, rows)`, `inputs.write([])` for nothing but padding, `this.ops.record(() => …)` of `this.step`.
    throw new TodoError('6.6', 'days/day6/decode-graph.ts');
  }
}

/**
 * 1, 2, 4, 8, then every 16, and the largest, ascending and each once; none is larger than `most`. So padding never doubles a small
 * batch, and adds at most 15 rows to a large one.
 */
export function graphBatchSizes(most: number): number[] {
  // TODO 6.6 (about 3 lines)
  // For 40: 1, 2, 4, 8, 16, 32, 40. For 32 it ends with 32, once; for 3 it is 1, 2, 3.
  throw new TodoError('6.6', 'days/day6/decode-graph.ts');
}
