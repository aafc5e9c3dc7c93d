import type { Sequence } from '#nano/engine/sequence';
import type { Sampler, SampleValues } from '#nano/layers/sampler';
import type { CausalLM } from '#nano/models/registry';
import type { SampleArgs } from '#nano/tensor/kernels';
import type { Ops } from '#nano/tensor/ops';
import type { Recording } from '#nano/tensor/recording';
import { Tensor } from '#nano/tensor/tensor';
import { slotsFor } from '#nano/utils/context';

/** Recordings kept; the one used longest ago makes room. */
const MAX_RECORDINGS = 32;

export interface DecodeOutput {
  /** int32 `[B]` */
  readonly tokens: Tensor;
  /** `[B, V]` */
  readonly logits: Tensor;
}

/** Sizes of the largest decode step. */
export interface DecodeLimits {
  readonly maxNumSeqs: number;
  readonly maxModelLen: number;
  readonly blockSize: number;
}

/**
 * Decode steps, from embedding through sampling, captured once for each batch size and replayed. A step's inputs lie in
 * buffers that are made once, outside the arena: a replay finds the new values where the capture saw the old ones.
 * (`enforceEager` runs the same step without capturing.)
 */
export class DecodeGraph {
  private readonly buffers: DecodeInputs;
  private readonly recordings = new Map<number, Recording<DecodeOutput>>();

  constructor(
    private readonly ops: Ops,
    private readonly model: CausalLM,
    private readonly sampler: Sampler,
    private readonly limits: DecodeLimits,
    private readonly capture: boolean,
  ) {
    this.buffers = new DecodeInputs(ops, sampler, limits);
  }

  /** One token for each sequence: its last, whose key and value are not in the cache yet. */
  run<R>(seqs: readonly Sequence[], use: (output: DecodeOutput) => R): R {
    this.buffers.write(seqs, this.sampler.valuesFor(seqs));
    const longest = Math.max(...seqs.map((seq) => seq.numTokens));
    if (!this.capture) return this.ops.scope(() => use(this.step(seqs.length, longest)));
    return this.recordingFor(seqs.length).replay(this.ops.backend, use);
  }

  /** The step itself, over the first `batch` entries of the input buffers; no context is longer than `maxContextLen`. */
  step(batch: number, maxContextLen = this.limits.maxModelLen): DecodeOutput {
    const { inputIds, positions, slotMapping, contextLens, blockTables, sampling } = this.buffers.first(batch);
    const hidden = this.model.forward(inputIds, positions, {
      isPrefill: false,
      slotMapping,
      blockTables,
      contextLens,
      maxContextLen,
    });
    const logits = this.model.computeLogits(hidden);
    return { logits, tokens: this.sampler.forward(logits, sampling) };
  }

  private recordingFor(batch: number): Recording<DecodeOutput> {
    const recording = this.recordings.get(batch) ?? this.ops.record(() => this.step(batch));
    this.recordings.delete(batch);
    this.recordings.set(batch, recording); // a Map keeps insertion order: the last is the most recently used
    const [oldest] = this.recordings.keys();
    if (this.recordings.size > MAX_RECORDINGS) this.recordings.delete(oldest);
    return recording;
  }
}

/** The input buffers of decode steps, for the largest batch. Smaller ones use their first entries. */
class DecodeInputs {
  private readonly tables: number;
  private readonly inputIds: Tensor;
  private readonly positions: Tensor;
  private readonly slotMapping: Tensor;
  private readonly contextLens: Tensor;
  private readonly blockTables: Tensor;
  private readonly sampling: SampleArgs;

  constructor(
    private readonly ops: Ops,
    private readonly sampler: Sampler,
    private readonly limits: DecodeLimits,
  ) {
    const { maxNumSeqs, maxModelLen, blockSize } = limits;
    this.tables = Math.ceil(maxModelLen / blockSize);
    const ints = () => ops.backend.allocate([maxNumSeqs], 'int32');
    [this.inputIds, this.positions, this.slotMapping, this.contextLens] = [ints(), ints(), ints(), ints()];
    this.blockTables = ops.backend.allocate([maxNumSeqs, this.tables], 'int32');
    this.sampling = sampler.argsBy(maxNumSeqs, (shape, dtype) => ops.backend.allocate(shape, dtype));
  }

  first(batch: number) {
    const { inputIds, positions, slotMapping, contextLens, blockTables, sampling } = this;
    return {
      inputIds: firstRows(inputIds, batch),
      positions: firstRows(positions, batch),
      slotMapping: firstRows(slotMapping, batch),
      contextLens: firstRows(contextLens, batch),
      blockTables: firstRows(blockTables, batch),
      sampling: this.sampler.argsBy(batch, (_shape, _dtype, name) => firstRows(sampling[name], batch)),
    };
  }

  write(seqs: readonly Sequence[], values: SampleValues): void {
    const { blockSize } = this.limits;
    const { inputIds, positions, slotMapping, contextLens, blockTables, sampling } = this.first(seqs.length);
    const write = (tensor: Tensor, value: (seq: Sequence) => number) =>
      this.ops.backend.write(tensor, Int32Array.from(seqs, value));
    write(inputIds, (seq) => seq.lastToken);
    write(positions, (seq) => seq.numTokens - 1);
    write(slotMapping, (seq) => slotsFor(seq.blockTable, seq.numTokens - 1, seq.numTokens, blockSize)[0]);
    write(contextLens, (seq) => seq.numTokens);
    const tables = new Int32Array(seqs.length * this.tables).fill(-1);
    seqs.forEach((seq, b) => tables.set(seq.blockTable, b * this.tables));
    this.ops.backend.write(blockTables, tables);
    for (const name of Object.keys(values) as (keyof SampleValues)[])
      this.ops.backend.write(sampling[name], values[name]);
  }
}

/** Rows `0 … count - 1` of a contiguous tensor. */
function firstRows(tensor: Tensor, count: number): Tensor {
  return new Tensor(tensor.storage, [count, ...tensor.shape.slice(1)], tensor.dtype, tensor.strides, tensor.offset);
}
