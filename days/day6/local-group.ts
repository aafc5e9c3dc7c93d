// Exercise made from src/distributed/local-group.ts by `npm run days`, which keeps what you write. [996d0d6fc91313d8]
import { LocalBarrier } from '#nano/distributed/local-barrier';
import type { ProcessGroup } from '#nano/distributed/process-group';
import { InvalidTensorError } from '#nano/errors';
import { Tensor } from '#nano/tensor/tensor';
import { TodoError } from '#nano/utils/todo';

/** How the group gets at a tensor's numbers: backends whose memory is the host's have these. */
export interface HostMemory {
  copyOut(tensor: Tensor, into: Float32Array): void;
  write(tensor: Tensor, values: Float32Array): void;
}

/** Floats of one rank that are exchanged at a time; larger tensors go piece by piece. */
const SLOT = 1 << 16;

/**
 * Ranks as threads of one process, talking through shared memory: for CPUs, and to see how collectives work, with nothing hidden.
 * Every rank copies its numbers into its slot, all wait for each other, and every rank reads all slots. A real library moves each
 * number fewer times, and overlaps the copying with the adding; what it computes is this.
 */
export class LocalGroup implements ProcessGroup {
  private readonly arrivals: LocalBarrier;
  private readonly slots: readonly Float32Array[];
  private readonly staging = new Float32Array(SLOT);

  /** What all ranks are given, made by one of them. */
  static sharedMemory(worldSize: number): SharedArrayBuffer {
    return new SharedArrayBuffer(LocalBarrier.BYTES + 4 * SLOT * worldSize);
  }

  constructor(
    readonly rank: number,
    readonly worldSize: number,
    shared: SharedArrayBuffer,
    private readonly memory: HostMemory,
  ) {
    this.arrivals = new LocalBarrier(shared, worldSize);
    const slotAt = (r: number) => new Float32Array(shared, LocalBarrier.BYTES + 4 * SLOT * r, SLOT);
    this.slots = Array.from({ length: worldSize }, (_, r) => slotAt(r));
  }

  /** All ranks add in the same order, so that all get the same bits: floating-point sums depend on it. */
  allReduce(x: Tensor): void {
    // TODO 6.1 (about 7 lines)
    // In `exchange`'s callback, `slots[r]` begins with rank r's numbers. Sum them in the array `staging`, for r = 0, 1, …
    // whichever rank this is; then write the sum over the piece with `memory.write`.
    throw new TodoError('6.1', 'days/day6/local-group.ts');
  }

  allGather(out: Tensor, x: Tensor): void {
    if (out.numel !== this.worldSize * x.numel) {
      throw new InvalidTensorError(`allGather: ${this.worldSize} × [${x.shape}] do not fill [${out.shape}].`);
    }
    // TODO 6.1 (about 3 lines)
    // Rank r's x fills elements `r * x.numel …` of out; and this is only the piece of it that begins at `start`.
    throw new TodoError('6.1', 'days/day6/local-group.ts');
  }

  broadcast(x: Tensor, root: number): void {
    this.exchange(x, (piece) => this.memory.write(piece, this.slots[root].slice(0, piece.numel)));
  }

  /**
   * Shows `x` to all ranks, in pieces of at most {@link SLOT} floats, and calls `use` for each piece when all ranks have shown theirs:
   * `slots[r]` begins with rank r's numbers then. `start` is the piece's first element in `x`; `use` may overwrite it.
   *
   * Two waits for each piece: nobody may read a slot before its rank has filled it, and nobody may fill one again, with the next
   * piece or in the next collective, while another rank still reads it.
   */
  private exchange(x: Tensor, use: (piece: Tensor, start: number) => void): void {
    if (x.dtype !== 'float32') {
      throw new InvalidTensorError(`Ranks in threads exchange float32 tensors, got ${x.dtype}.`);
    }
    // TODO 6.1 (about 9 lines)
    // `part(x, start, length)` is a piece as a tensor; the last may be shorter. Copy it out into `staging`, and from there into
    // this rank's slot. `this.barrier()` returns when all ranks have called it.
    throw new TodoError('6.1', 'days/day6/local-group.ts');
  }

  barrier(): void {
    this.arrivals.wait();
  }

  abort(message: string): void {
    this.arrivals.end(message);
  }

  /** Shared memory goes with the last thread that knows it. */
  close(): void {}
}

/** `length` elements of a contiguous tensor from element `start` on, as a vector. */
function part(tensor: Tensor, start: number, length: number): Tensor {
  if (!tensor.isContiguous)
    throw new InvalidTensorError(`A collective needs a contiguous tensor, got [${tensor.shape}].`);
  return new Tensor(tensor.storage, [length], tensor.dtype, undefined, tensor.offset + start);
}
