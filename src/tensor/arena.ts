import { BackendError } from '#nano/errors';
import type { DType } from '#nano/tensor/dtype';
import type { ArenaMemory } from '#nano/tensor/kernels';
import { type Storage, Tensor } from '#nano/tensor/tensor';

const ALIGNMENT = 64; // a cache line, and what aligned SIMD loads want
const align = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/**
 * A stack of temporaries for one step. Allocating moves a pointer up; a scope's end moves it back.
 *
 * Why not the garbage collector? Activations would wait for it in memory it cannot see. And because
 * the same step makes the same allocations in the same order, every tensor has the same address in
 * every step, which is what lets a GPU graph be captured once and replayed.
 */
export class Arena {
  private top = 0;
  private readonly live: Storage[] = [];
  private captured: Storage[] | null = null;
  /** Most bytes ever in use: what a measuring run reports. */
  highWater = 0;

  /** Without `memory` the arena only measures: it counts bytes, and its tensors have no elements. */
  constructor(
    private readonly bytesOf: (numel: number, dtype: DType) => number,
    private readonly memory?: ArenaMemory,
  ) {}

  get capacity(): number {
    return this.memory?.capacity ?? 0;
  }

  /** An uninitialised tensor that lives until the enclosing {@link scope} ends. */
  alloc(shape: readonly number[], dtype: DType): Tensor {
    const numel = shape.reduce((a, b) => a * b, 1);
    const offset = this.top;
    this.top += align(this.bytesOf(numel, dtype));
    this.highWater = Math.max(this.highWater, this.top);
    if (this.memory && this.top > this.memory.capacity) {
      this.top = offset;
      throw new BackendError(
        `The activation arena holds ${this.memory.capacity} bytes and a [${shape}] ${dtype} tensor would need ` +
          `${offset + this.bytesOf(numel, dtype)}: this step is larger than the one the arena was measured for.`,
      );
    }
    const storage = this.memory?.storageAt(offset, numel, dtype) ?? { alive: true };
    this.live.push(storage);
    this.captured?.push(storage);
    return new Tensor(storage, shape, dtype);
  }

  /** Runs `body`; every tensor allocated within it is dead afterwards, however it ends. */
  scope<T>(body: () => T): T {
    const [top, live] = [this.top, this.live.length];
    try {
      return body();
    } finally {
      this.release(top, live);
    }
  }

  /**
   * A scope whose tensors can be brought back to life: `body` gets the list of all storages that will have been
   * allocated within it, those of inner scopes too. Only from an empty arena, so that they always lie in the same place.
   */
  capture<T>(body: (storages: readonly Storage[]) => T): T {
    if (this.top !== 0) throw new BackendError('A step can only be captured from its beginning: the arena is in use.');
    this.captured = [];
    try {
      return this.scope(() => body(this.captured ?? []));
    } finally {
      this.captured = null;
    }
  }

  /** Ends all scopes: the step is over. */
  reset(): void {
    this.release(0, 0);
  }

  free(): void {
    this.reset();
    this.memory?.free();
  }

  private release(top: number, live: number): void {
    for (let i = live; i < this.live.length; i++) this.live[i].alive = false;
    this.live.length = live;
    this.top = top;
  }
}
