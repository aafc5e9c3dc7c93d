import { ALONE, type ProcessGroup } from '#nano/distributed/process-group';
import { InvalidTensorError } from '#nano/errors';
import { Arena } from '#nano/tensor/arena';
import type { FloatDType } from '#nano/tensor/dtype';
import { ATTN_BACKENDS, type AttnBackend, type Backend } from '#nano/tensor/kernels';
import { type KernelCall, Recording } from '#nano/tensor/recording';
import type { Tensor } from '#nano/tensor/tensor';

/**
 * Where operations take memory from and what becomes of their kernel calls: they are made, or kept in a recording, or, while a
 * step's memory is measured, neither. The operations themselves are in `ops.ts`.
 */
export class OpRunner {
  private arena: Arena;
  /** `measure`: only allocate. `record`: collect the kernel calls instead of making them. */
  private mode: 'run' | 'measure' | 'record' = 'run';
  private calls: KernelCall[] = [];
  private recordedAttnCalls = noAttnCalls();
  /** Attention calls by implementation: proof of which one really ran. Replayed ones count too. */
  readonly attnCalls = noAttnCalls();

  /** What activations are kept in. */
  readonly activationDType: FloatDType;

  /** `dtype` is the model's. `group`: the ranks that run the same operations on their shards. */
  constructor(
    readonly backend: Backend,
    dtype: FloatDType,
    readonly group: ProcessGroup = ALONE,
  ) {
    this.activationDType = backend.activationDType(dtype);
    this.arena = this.measuringArena();
  }

  private measuringArena(): Arena {
    return new Arena((n, dtype) => this.backend.bytesOf(n, dtype));
  }

  /**
   * Sizes the arena: `step` runs with allocation and checks but no kernels, then the arena is
   * reserved at its high-water mark and never grows.
   */
  reserveFor(step: () => void): void {
    this.arena.free();
    const arena = this.measuringArena();
    this.arena = arena;
    this.inMode('measure', () => this.scope(step));
    const bytes = this.backend.bytesOf.bind(this.backend);
    this.arena = new Arena(bytes, this.backend.reserveArena(arena.highWater));
  }

  /**
   * Captures a step: `step` runs with allocation and checks, and its kernel calls are kept. Replaying makes the same
   * calls on the same addresses, without the work of checking and allocating; new values come in through tensors that
   * lie outside the arena. Where the device has graphs, the calls become one.
   */
  record<T>(step: () => T): Recording<T> {
    this.calls = [];
    this.recordedAttnCalls = noAttnCalls();
    const { calls, recordedAttnCalls, backend } = this;
    const countCalls = () => {
      for (const name of ATTN_BACKENDS) this.attnCalls[name] += recordedAttnCalls[name];
    };
    const recording = this.arena.capture((storages) => {
      const result = this.inMode('record', step);
      return new Recording(calls, storages, result, countCalls);
    });
    recording.captureOn(backend);
    return recording;
  }

  private inMode<T>(mode: 'measure' | 'record', body: () => T): T {
    this.mode = mode;
    try {
      return body();
    } finally {
      this.mode = 'run';
    }
  }

  get arenaBytes(): number {
    return this.arena.capacity;
  }

  /** @see Arena.scope */
  scope<T>(body: () => T): T {
    return this.arena.scope(body);
  }

  /** An uninitialised activation `[…]`, alive until the enclosing scope ends. */
  empty(shape: readonly number[], dtype: Tensor['dtype'] = this.activationDType): Tensor {
    return this.arena.alloc(shape, dtype);
  }

  /** Host numbers as a tensor of this step: int32, or float32 unless another dtype is asked for. */
  fromHost(
    values: Float32Array | Int32Array,
    shape: readonly number[] = [values.length],
    dtype: FloatDType = 'float32',
  ): Tensor {
    if (this.mode === 'record') {
      throw new InvalidTensorError(
        'Host values cannot enter a recorded step: they would be the same at every replay. Write them to an input tensor.',
      );
    }
    const tensor = this.empty(shape, values instanceof Int32Array ? 'int32' : dtype);
    if (this.mode === 'run') this.backend.write(tensor, values);
    return tensor;
  }

  protected countAttention(attnBackend: AttnBackend): void {
    if (this.mode === 'run') this.attnCalls[attnBackend]++;
    else if (this.mode === 'record') this.recordedAttnCalls[attnBackend]++;
  }

  protected run(call: KernelCall): void {
    if (this.mode === 'run') call(this.backend);
    else if (this.mode === 'record') this.calls.push(call);
  }
}

const noAttnCalls = (): Record<AttnBackend, number> => ({ flash: 0, 'sdpa.math': 0 });
