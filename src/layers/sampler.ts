import type { Sequence } from '#nano/engine/sequence';
import type { SampleArgs } from '#nano/tensor/kernels';
import type { Ops } from '#nano/tensor/ops';
import type { Tensor } from '#nano/tensor/tensor';

/** The host side of {@link SampleArgs}: one entry a sequence, two for the seed's words. */
export type SampleValues = { readonly [K in keyof SampleArgs]: Float32Array | Int32Array };

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

  /** What the sequences ask for, in order. */
  valuesFor(seqs: readonly Sequence[]): SampleValues {
    const params = seqs.map((seq) => seq.samplingParams);
    return {
      temperature: Float32Array.from(params, (p) => p.temperature),
      topK: Int32Array.from(params, (p) => Math.min(p.topK, 0x7fffffff)),
      topP: Float32Array.from(params, (p) => p.topP),
      minP: Float32Array.from(params, (p) => p.minP),
      seed: Int32Array.from(seqs.flatMap((seq) => this.seedWords(seq))),
      position: Int32Array.from(seqs, (seq) => seq.numOutputTokens),
    };
  }

  /** A tensor for each value, by `make`. */
  argsBy(
    rows: number,
    make: (shape: number[], dtype: 'float32' | 'int32', name: keyof SampleArgs) => Tensor,
  ): SampleArgs {
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
  private seedWords(seq: Sequence): [number, number] {
    const { seed } = seq.samplingParams;
    if (seed !== undefined) return [(seed % 2 ** 32) | 0, Math.floor(seed / 2 ** 32)];
    return [(this.engineSeed % 2 ** 32) | 0, 0x80000000 | seq.requestIndex];
  }
}
