/**
 * Python's `random.seed(n)`, `random.randint` and `random.random`, so that a workload is the very one of a benchmark written in Python:
 * the Mersenne Twister MT19937 (Matsumoto & Nishimura 1998), seeded by an array as in their `init_by_array`.
 */
export class PythonRandom {
  private readonly state = new Uint32Array(SIZE);
  private next = SIZE;

  /** @param seed below 2^32 */
  constructor(seed: number) {
    const { state } = this;
    state[0] = 19650218;
    for (let i = 1; i < SIZE; i++) state[i] = Math.imul(1812433253, mixed(state[i - 1])) + i;
    let i = 1;
    const advance = () => {
      if (++i < SIZE) return;
      state[0] = state[SIZE - 1];
      i = 1;
    };
    for (let k = 0; k < SIZE; k++, advance()) state[i] = (state[i] ^ Math.imul(mixed(state[i - 1]), 1664525)) + seed;
    for (let k = 1; k < SIZE; k++, advance()) state[i] = (state[i] ^ Math.imul(mixed(state[i - 1]), 1566083941)) - i;
    state[0] = 0x80000000;
  }

  /** A whole number from `low` to `high`, both included. */
  randint(low: number, high: number): number {
    const count = high - low + 1;
    const bits = 32 - Math.clz32(count);
    // Too large a draw is thrown away: the remainder of a division would favour small numbers.
    for (;;) {
      const drawn = this.uint32() >>> (32 - bits);
      if (drawn < count) return low + drawn;
    }
  }

  /** A number from 0 to 1, 1 not included. */
  random(): number {
    const [high, low] = [this.uint32() >>> 5, this.uint32() >>> 6];
    return (high * 2 ** 26 + low) / 2 ** 53;
  }

  private uint32(): number {
    if (this.next === SIZE) this.twist();
    let y = this.state[this.next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  private twist(): void {
    const { state } = this;
    for (let i = 0; i < SIZE; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % SIZE] & 0x7fffffff);
      state[i] = state[(i + SHIFT) % SIZE] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.next = 0;
  }
}

const SIZE = 624;
const SHIFT = 397;

const mixed = (x: number): number => x ^ (x >>> 30);
