// Exercise made from src/layers/sampler.ts by `npm run days`, which keeps what you write. [65307311c4754932]
import type { StepSequence } from '#nano/engine/step';
import type { SampleArgs } from '#nano/tensor/kernels';
import type { Ops } from '#nano/tensor/ops';
import type { Tensor } from '#nano/tensor/tensor';
import { TodoError } from '#nano/utils/todo';

/** One `T` for each sampling parameter. */
export type ForEachSampleArg<T> = { readonly [K in keyof SampleArgs]: T };
/** The host side of {@link SampleArgs}: one entry a row, two for the seed's words. */
export type SampleValues = ForEachSampleArg<Float32Array | Int32Array>;

/** Draws each sequence's next token by its own sampling parameters, all in one kernel. */
export class Sampler {
  constructor(
    private readonly ops: Ops,
    private readonly engineSeed: number,
  ) {}

  /** `logits[B, V]` → token ids int32 `[B]`. */
  forward(logits: Tensor, args: SampleArgs): Tensor {
    return this.ops.sample(logits, args);
  }

  /**
   * Writes what the sequences ask for into the first rows, `seqs[b]` into row b: its temperature, topK (cut to the largest int32),
   * topP and minP, its seed, and as `position` the index of the token to be drawn within its output. With the token's id, the
   * last two are all that the noise depends on: not the row, not the batch, not what was drawn before. Rows that are left are
   * padding: temperature 0, greedy, the cheapest.
   */
  fill(values: SampleValues, seqs: readonly StepSequence[]): void {
    // TODO 5.3 (about 10 lines)
    // A sequence has as many output tokens as `numOutputTokens` says; what is the index of the next?
    // An Int32Array keeps the low 32 bits of what it is given: which topK would become -1?
    // Only `temperature` of the rows that are left counts. `this.fillSeed` writes the seed.
    throw new TodoError('5.3', 'days/day5/sampler.ts');
  }

  /** What `make` makes for each parameter: a tensor, an array. */
  argsBy<T>(
    rows: number,
    make: (shape: number[], dtype: 'float32' | 'int32', name: keyof SampleArgs) => T,
  ): ForEachSampleArg<T> {
    return {
      temperature: make([rows], 'float32', 'temperature'),
      topK: make([rows], 'int32', 'topK'),
      topP: make([rows], 'float32', 'topP'),
      minP: make([rows], 'float32', 'minP'),
      seed: make([rows, 2], 'int32', 'seed'),
      position: make([rows], 'int32', 'position'),
    };
  }

  /**
   * Writes the 64-bit seed of row b: its low word into `words[2b]`, its high word into `words[2b + 1]`. A request's own seed is
   * written as it is. A request without one gets the low word of the engine's seed, and as high word its `requestIndex` with the
   * top bit set: no own seed is that large, so the two kinds never meet.
   */
  private fillSeed(
    words: Float32Array | Int32Array,
    b: number,
    { samplingParams: { seed }, requestIndex }: StepSequence,
  ) {
    // TODO 5.3 (about 2 lines)
    // Seeds go up to 2^53 - 1, and `>> 32` does nothing in JavaScript: bit operators see only 32 bits. Divide.
    // 0 is a seed like any other; only undefined means that the request has none.
    throw new TodoError('5.3', 'days/day5/sampler.ts');
  }
}
