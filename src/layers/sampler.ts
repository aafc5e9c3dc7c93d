import type { Sequence } from '#nano/engine/sequence';
import type { Ops } from '#nano/tensor/ops';
import type { Tensor } from '#nano/tensor/tensor';

/** Draws each sequence's next token by its own sampling parameters, all in one kernel. */
export class Sampler {
  constructor(
    private readonly ops: Ops,
    private readonly engineSeed: number,
  ) {}

  /** `logits[B, V]`, row b for `seqs[b]` → token ids int32 `[B]`. */
  forward(logits: Tensor, seqs: readonly Sequence[]): Tensor {
    const params = seqs.map((seq) => seq.samplingParams);
    const floats = (value: (p: (typeof params)[number]) => number) =>
      this.ops.fromHost(Float32Array.from(params, value));
    return this.ops.sample(logits, {
      temperature: floats((p) => p.temperature),
      topK: this.ops.fromHost(Int32Array.from(params, (p) => Math.min(p.topK, logits.shape[1]))),
      topP: floats((p) => p.topP),
      minP: floats((p) => p.minP),
      seed: this.ops.fromHost(Int32Array.from(seqs.flatMap((seq) => this.seedWords(seq))), [seqs.length, 2]),
      position: this.ops.fromHost(Int32Array.from(seqs, (seq) => seq.numOutputTokens)),
    });
  }

  /** The allocations of a draw, for measuring the largest step. */
  measure(logits: Tensor): void {
    const rows = logits.shape[0];
    const floats = () => this.ops.empty([rows], 'float32');
    const ints = () => this.ops.empty([rows], 'int32');
    const seed = this.ops.empty([rows, 2], 'int32');
    const args = { temperature: floats(), topK: ints(), topP: floats(), minP: floats(), seed, position: ints() };
    this.ops.sample(logits, args);
  }

  /** 64 bits: the request's own seed, or the engine's seed with the request's number in the marked upper word. */
  private seedWords(seq: Sequence): [number, number] {
    const { seed } = seq.samplingParams;
    if (seed !== undefined) return [(seed % 2 ** 32) | 0, Math.floor(seed / 2 ** 32)];
    return [(this.engineSeed % 2 ** 32) | 0, 0x80000000 | seq.requestIndex];
  }
}
