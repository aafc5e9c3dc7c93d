import type { StepSequence } from '#nano/engine/step';
import type { Sampler, SampleValues } from '#nano/layers/sampler';
import type { Backend, SampleArgs } from '#nano/tensor/kernels';
import { Tensor } from '#nano/tensor/tensor';

/** Sizes of the largest decode step. */
export interface DecodeLimits {
  readonly maxNumSeqs: number;
  readonly maxModelLen: number;
  readonly blockSize: number;
}

/** The same numbers twice: in an array that the host fills, and in a tensor that the step reads. */
interface Input {
  readonly host: Int32Array | Float32Array;
  readonly device: Tensor;
}

/**
 * Integers of one sequence beside its blocks: position, cache slot, context length, token slot; topK, seed (2),
 * position.
 */
const INTS_PER_ROW = 8;
/** temperature, topP, minP */
const FLOATS_PER_ROW = 3;

/**
 * Memory for the inputs of the largest decode step, outside the arena: a replay finds the new values where the
 * capture saw the old ones. Steps of every size use its beginning, one after the other.
 */
export class DecodeBuffers {
  readonly ints: Input;
  readonly floats: Input;
  /** Entries of a row of the block tables. */
  readonly maxBlocks: number;

  constructor(
    readonly backend: Backend,
    readonly sampler: Sampler,
    readonly limits: DecodeLimits,
  ) {
    const { maxNumSeqs, maxModelLen, blockSize } = limits;
    this.maxBlocks = Math.ceil(maxModelLen / blockSize);
    const [ints, floats] = [maxNumSeqs * (INTS_PER_ROW + this.maxBlocks), maxNumSeqs * FLOATS_PER_ROW];
    this.ints = { host: new Int32Array(ints), device: backend.allocate([ints], 'int32') };
    this.floats = { host: new Float32Array(floats), device: backend.allocate([floats], 'float32') };
  }
}

/**
 * The inputs of a decode step over `rows` sequences, padding included. All integers lie in one piece and all floats in
 * another, so that two transfers carry everything: a transfer costs microseconds, however little it brings. Where an
 * input lies depends on the number of rows alone, as a captured graph wants it. Make one for each size, and keep it.
 *
 * Token ids are missing on purpose: the step reads them from the token slots, where the step before left them.
 */
export class DecodeInputs {
  private readonly ints: Input;
  private readonly floats: Input;
  /** int32 `[B]` each: the new token's position and cache slot, the keys it sees (its own included), its token slot. */
  readonly positions: Input;
  readonly slotMapping: Input;
  readonly contextLens: Input;
  readonly tokenSlots: Input;
  readonly sampleArgs: SampleArgs;
  private readonly sampleValues: SampleValues;
  /** int32 `[B, MB]`, MB for the longest sequence there may be. Last, since it is by far the largest. */
  readonly blockTables: Input;

  constructor(
    private readonly buffers: DecodeBuffers,
    readonly rows: number,
  ) {
    const [ints, floats] = [new Cutter(buffers.ints), new Cutter(buffers.floats)];
    this.positions = ints.cut(rows);
    this.slotMapping = ints.cut(rows);
    this.contextLens = ints.cut(rows);
    this.tokenSlots = ints.cut(rows);
    const { sampler } = buffers;
    const sampling = sampler.argsBy(rows, (shape, dtype) => (dtype === 'int32' ? ints : floats).cut(...shape));
    this.sampleArgs = sampler.argsBy(rows, (_shape, _dtype, name) => sampling[name].device);
    this.sampleValues = sampler.argsBy(rows, (_shape, _dtype, name) => sampling[name].host);
    this.blockTables = ints.cut(rows, buffers.maxBlocks);
    this.ints = ints.all();
    this.floats = floats.all();
  }

  /** Fills the first rows from the sequences and the rest with padding, and sends them to the device. */
  write(seqs: readonly StepSequence[]): void {
    const { backend, sampler, maxBlocks, limits } = this.buffers;
    const { blockSize } = limits;
    const [positions, slotMapping] = [this.positions.host, this.slotMapping.host];
    const [contextLens, tokenSlots, blockTables] = [this.contextLens.host, this.tokenSlots.host, this.blockTables.host];
    // Plain loops that allocate nothing: the device may be waiting.
    for (let b = 0; b < seqs.length; b++) {
      const { numTokens, blockTable, tokenSlot } = seqs[b];
      const position = numTokens - 1;
      positions[b] = position;
      slotMapping[b] = blockTable[Math.floor(position / blockSize)] * blockSize + (position % blockSize);
      contextLens[b] = numTokens;
      tokenSlots[b] = tokenSlot;
      const row = b * maxBlocks;
      for (let i = 0; i < blockTable.length; i++) blockTables[row + i] = blockTable[i];
      blockTables.fill(-1, row + blockTable.length, row + maxBlocks);
    }
    // Padding sees no keys, writes none, and leaves no token behind; whatever it computes is ignored.
    positions.fill(0, seqs.length);
    slotMapping.fill(-1, seqs.length);
    contextLens.fill(0, seqs.length);
    tokenSlots.fill(-1, seqs.length);
    blockTables.fill(-1, seqs.length * maxBlocks);
    sampler.fill(this.sampleValues, seqs);
    backend.write(this.ints.device, this.ints.host);
    backend.write(this.floats.device, this.floats.host);
  }
}

/** Cuts inputs from the front of a buffer, one behind the other. */
class Cutter {
  private used = 0;

  constructor(private readonly buffer: Input) {}

  cut(...shape: number[]): Input {
    const input = this.view(this.used, shape);
    this.used += input.device.numel;
    return input;
  }

  /** Everything cut so far, in one piece. */
  all(): Input {
    return this.view(0, [this.used]);
  }

  private view(start: number, shape: number[]): Input {
    const { host, device } = this.buffer;
    const tensor = new Tensor(device.storage, shape, device.dtype, undefined, start);
    return { host: host.subarray(start, start + tensor.numel), device: tensor };
  }
}
