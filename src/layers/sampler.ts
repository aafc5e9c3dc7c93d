import type { Sequence } from '#nano/engine/sequence';
import type { SampleArgs } from '#nano/tensor/kernels';
import type { Ops } from '#nano/tensor/ops';
import type { Tensor } from '#nano/tensor/tensor';

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

  /** Writes what the sequences ask for into the first rows. Rows that are left are padding: greedy, the cheapest. */
  fill(values: SampleValues, seqs: readonly Sequence[]): void {
    for (let b = 0; b < seqs.length; b++) {
      const { temperature, topK, topP, minP } = seqs[b].samplingParams;
      values.temperature[b] = temperature;
      values.topK[b] = Math.min(topK, 0x7fffffff);
      values.topP[b] = topP;
      values.minP[b] = minP;
      this.fillSeed(values.seed, b, seqs[b]);
      values.position[b] = seqs[b].numOutputTokens;
    }
    values.temperature.fill(0, seqs.length);
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

  /** 64 bits: the request's own seed, or the engine's seed with the request's number in the marked upper word. */
  private fillSeed(words: Float32Array | Int32Array, b: number, { samplingParams: { seed }, requestIndex }: Sequence) {
    words[2 * b] = ((seed ?? this.engineSeed) % 2 ** 32) | 0;
    words[2 * b + 1] = seed !== undefined ? Math.floor(seed / 2 ** 32) : 0x80000000 | requestIndex;
  }
}
