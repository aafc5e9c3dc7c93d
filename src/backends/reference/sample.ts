import { floats, ints, row } from '#nano/backends/reference/dense';
import type { SampleArgs } from '#nano/tensor/kernels';
import type { Tensor } from '#nano/tensor/tensor';
import { gumbelNoise } from '#nano/utils/philox';

/** Draws one token id a row: `out[B]` from `logits[B, V]`, each row by its own parameters; see {@link SampleArgs}. */
export function sample(out: Tensor, logits: Tensor, args: SampleArgs): void {
  const ids = ints(out);
  const at = (tensor: Tensor, b: number) => floats(tensor)[tensor.offset + b];
  const seeds = ints(args.seed);
  for (let b = 0; b < ids.length; b++) {
    const temperature = at(args.temperature, b);
    const scores = row(logits, b);
    if (temperature === 0) {
      ids[b] = greedy(scores);
      continue;
    }
    const allowed = filterTokens(scores, temperature, ints(args.topK)[b], at(args.topP, b), at(args.minP, b));
    const [low, high, position] = [seeds[2 * b], seeds[2 * b + 1], ints(args.position)[b]];
    ids[b] = gumbelMax(scores, temperature, allowed, (id) => gumbelNoise(low, high, position, id));
  }
}

/** The id of the largest logit; the lowest id among equals. */
export function greedy(logits: Float32Array): number {
  // solution 5.1 (about 6 lines)
  // hint: Go through the ids from 0 on, and keep the best so far. Which comparison leaves the lower id in place among
  // hint: equals?
  let best = 0;
  let bestLogit = -Infinity;
  for (let id = 0; id < logits.length; id++) {
    if (logits[id] > bestLogit) [best, bestLogit] = [id, logits[id]];
  }
  return best;
  // end solution
}

/**
 * Draws one of the ids in `allowed`, which ascend and are never none: the one with the largest
 * `logits[id] / temperature + noise(id)`, the lowest id among equals. With standard Gumbel noise, fresh for each id, that is a draw
 * from the softmax of `logits / temperature` over the allowed ids (the Gumbel-max trick), and nothing has to be normalised.
 */
export function gumbelMax(
  logits: Float32Array,
  temperature: number,
  allowed: readonly number[],
  noise: (tokenId: number) => number,
): number {
  // solution 5.1 (about 8 lines)
  // hint: `greedy` again, over `allowed` and with another score. The temperature divides the logit, not the noise.
  // hint: Ask for each id's noise once, by the id itself and not by its place in `allowed`: the same token must get the same
  // hint: noise whatever the filters left beside it.
  let best = allowed[0];
  let bestScore = -Infinity;
  for (const id of allowed) {
    const score = logits[id] / temperature + noise(id);
    if (score > bestScore) [best, bestScore] = [id, score];
  }
  return best;
  // end solution
}

/**
 * The ids of the tokens that may be drawn, ascending; at least one. With p = softmax(logits / temperature), each filter works
 * on what the one before it left:
 * 1. min-p keeps tokens with p ≥ minP · the largest p; 0 is off.
 * 2. top-k keeps the k likeliest; among equals at the edge, lower ids. 0 is off.
 * 3. top-p (nucleus sampling, Holtzman et al. 2020) keeps the likeliest tokens, as few as together reach the share topP of the
 *    probability that is left; equals are taken by id. 1 is off.
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
  // solution 5.2 (about 14 lines)
  // hint: Nothing here needs p itself: weights exp((logit - largest) / temperature) are in the same proportion, the
  // hint: likeliest token weighs 1, and no exponential overflows.
  // hint: Sort what min-p leaves: the larger logit first, the lower id among equals. Then top-k is a slice, and so is top-p.
  // hint: Add the weights up in that order. The token with which the sum reaches topP times the total is kept.
  // hint: Sort the ids again before you return them: [10, 9].sort() compares text.
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const weight = (id: number) => Math.exp((logits[id] - largest) / temperature);
  let kept = all.filter((id) => weight(id) >= minP);
  kept.sort((a, b) => logits[b] - logits[a] || a - b);
  if (topK > 0) kept = kept.slice(0, topK);
  if (topP < 1) {
    const total = kept.reduce((sum, id) => sum + weight(id), 0);
    let mass = 0;
    const crossing = kept.findIndex((id) => (mass += weight(id)) >= topP * total);
    if (crossing >= 0) kept = kept.slice(0, crossing + 1);
  }
  return kept.sort((a, b) => a - b);
  // end solution
}
