import { floats, ints, row } from '#nano/backends/reference/dense';
import type { SampleArgs } from '#nano/tensor/kernels';
import type { Tensor } from '#nano/tensor/tensor';
import { gumbelNoise } from '#nano/utils/philox';

export function sample(out: Tensor, logits: Tensor, args: SampleArgs): void {
  const ids = ints(out);
  const at = (tensor: Tensor, b: number) => floats(tensor)[tensor.offset + b];
  const seeds = ints(args.seed);
  for (let b = 0; b < ids.length; b++) {
    const temperature = at(args.temperature, b);
    const scores = row(logits, b);
    if (temperature === 0) {
      ids[b] = argmax(scores.length, (i) => scores[i]);
      continue;
    }
    const kept = filterTokens(scores, temperature, ints(args.topK)[b], at(args.topP, b), at(args.minP, b));
    const position = ints(args.position)[b];
    const noisy = (i: number) =>
      scores[kept[i]] / temperature + gumbelNoise(seeds[2 * b], seeds[2 * b + 1], position, kept[i]);
    ids[b] = kept[argmax(kept.length, noisy)];
  }
}

function argmax(count: number, value: (i: number) => number): number {
  let best = 0;
  let bestValue = -Infinity;
  for (let i = 0; i < count; i++) {
    const candidate = value(i);
    if (candidate > bestValue) [best, bestValue] = [i, candidate];
  }
  return best;
}

/**
 * The token ids that may be drawn, in ascending order: min-p, then top-k, then top-p (nucleus
 * sampling, Holtzman et al. 2020) over what is left, renormalised.
 */
export function filterTokens(
  logits: Float32Array,
  temperature: number,
  topK: number,
  topP: number,
  minP: number,
): number[] {
  const all = Array.from(logits.keys());
  if (topK === 0 && topP >= 1 && minP === 0) return all;
  const max = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  // Relative to the top token's probability: no normalisation needed until top-p.
  const weight = (i: number) => Math.exp((logits[i] - max) / temperature);
  let kept = all.filter((i) => weight(i) >= minP);
  kept.sort((a, b) => logits[b] - logits[a] || a - b);
  if (topK > 0) kept = kept.slice(0, topK);
  if (topP < 1) {
    const total = kept.reduce((sum, i) => sum + weight(i), 0);
    let mass = 0;
    // The token whose mass crosses topP is kept: the set must reach topP, and is never empty.
    const crossing = kept.findIndex((i) => (mass += weight(i)) >= topP * total);
    if (crossing >= 0) kept = kept.slice(0, crossing + 1);
  }
  return kept.sort((a, b) => a - b);
}
