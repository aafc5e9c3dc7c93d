import { DistributedError } from '#nano/errors';

/** Words of control: who has arrived, how many barriers there were, whether the group has ended, and the bytes of the reason. */
const [ARRIVED, GENERATION, ENDED, REASON_BYTES, WORDS] = [0, 1, 2, 3, 4];
const REASON_MAX = 2048;
/** For a rank that ends without a word, which a thread does only when it runs out of memory. */
const PATIENCE_MS = 300_000;

/** Where threads wait for each other, in memory that all of them see. */
export class LocalBarrier {
  static readonly BYTES = 4 * WORDS + REASON_MAX;
  private readonly control: Int32Array;
  private readonly reason: Uint8Array;

  /** Uses the first {@link BYTES} of `shared`, which begin as zeros. */
  constructor(
    shared: SharedArrayBuffer,
    private readonly worldSize: number,
  ) {
    this.control = new Int32Array(shared, 0, WORDS);
    this.reason = new Uint8Array(shared, 4 * WORDS, REASON_MAX);
  }

  /**
   * Returns when all have come; the last to arrive lets all go on. Why count barriers, and not wait for the arrivals to reach
   * the number of ranks? A fast rank could be in the next barrier, and have counted itself there, before a slow one has looked.
   *
   * @throws DistributedError when the group has ended, also while waiting.
   */
  wait(): void {
    this.throwIfEnded();
    const { control } = this;
    const generation = Atomics.load(control, GENERATION);
    if (Atomics.add(control, ARRIVED, 1) === this.worldSize - 1) {
      Atomics.store(control, ARRIVED, 0);
      this.open();
      return;
    }
    while (Atomics.load(control, GENERATION) === generation) {
      if (Atomics.wait(control, GENERATION, generation, PATIENCE_MS) === 'timed-out') {
        this.end(`A rank did not come to a collective within ${PATIENCE_MS / 1000} seconds.`);
      }
    }
    this.throwIfEnded();
  }

  private open(): void {
    Atomics.add(this.control, GENERATION, 1);
    Atomics.notify(this.control, GENERATION);
  }

  /** Ends the group for all ranks, those who wait here among them. Only the first reason counts. */
  end(reason: string): void {
    if (Atomics.compareExchange(this.control, ENDED, 0, 1) !== 0) return;
    const text = new TextEncoder().encode(reason).subarray(0, REASON_MAX);
    this.reason.set(text);
    Atomics.store(this.control, REASON_BYTES, text.length);
    this.open(); // whoever waits goes on, and finds that it has ended
  }

  private throwIfEnded(): void {
    if (Atomics.load(this.control, ENDED) === 0) return;
    const bytes = this.reason.slice(0, Atomics.load(this.control, REASON_BYTES)); // a copy: decoders refuse shared memory
    throw new DistributedError(new TextDecoder().decode(bytes) || 'The group has ended.');
  }
}
