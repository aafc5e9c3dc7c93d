// Exercise made from src/backends/reference/sample.ts by `npm run days`, which keeps what you write. [01ac175816d0a624]
import { floats, ints, row } from '#nano/backends/reference/dense';
import type { SampleArgs } from '#nano/tensor/kernels';
import type { Tensor } from '#nano/tensor/tensor';
import { gumbelNoise } from '#nano/utils/philox';
import { TodoError } from '#nano/utils/todo';

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
  // TODO 5.1 (about 6 lines)
  // Go through the ids from 0 on, and keep the best so far. Which comparison leaves the lower id in place among
  // equals?
  throw new TodoError('5.1', 'days/day5/sample.ts');
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
  // TODO 5.1 (about 8 lines)
  // `greedy` again, over `allowed` and with another score. The temperature divides the logit, not the noise.
  // Ask for each id's noise once, by the id itself and not by its place in `allowed`: the same token must get the same
  // noise whatever the filters left beside it.
  throw new TodoError('5.1', 'days/day5/sample.ts');
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
  // TODO 5.2 (about 14 lines)
  // Nothing here needs p itself: weights exp((logit - largest) / temperature) are in the same proportion, the
  // likeliest token weighs 1, and no exponential overflows.
  // Sort what min-p leaves: the larger logit first, the lower id among equals. Then top-k is a slice, and so is top-p.
  // Add the weights up in that order. The token with which the sum reaches topP times the total is kept.
  // Sort the ids again before you return them: [10, 9].sort() compares text.
  throw new TodoError('5.2', 'days/day5/sample.ts');
}
