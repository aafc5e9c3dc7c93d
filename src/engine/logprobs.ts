/** Log-probabilities at one position, before temperature and filters, as vLLM reports them. */
export interface TokenLogprobs {
  /** The drawn token's. */
  readonly logprob: number;
  /** The likeliest tokens, best first. */
  readonly top: readonly { readonly tokenId: number; readonly logprob: number }[];
}

/** log-softmax of one row of logits: the drawn token's entry and the `count` largest. */
export function tokenLogprobs(logits: Float32Array, drawn: number, count: number): TokenLogprobs {
  let max = -Infinity;
  for (const logit of logits) max = Math.max(max, logit);
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - max);
  const logNormalizer = max + Math.log(sum);
  const top: { tokenId: number; logprob: number }[] = [];
  for (let tokenId = 0; tokenId < logits.length && count > 0; tokenId++) {
    const logprob = logits[tokenId] - logNormalizer;
    if (top.length === count && logprob <= top[count - 1].logprob) continue;
    // Insert behind entries at least as likely: among equals the lower id comes first.
    let at = top.length;
    while (at > 0 && top[at - 1].logprob < logprob) at--;
    top.splice(at, 0, { tokenId, logprob });
    if (top.length > count) top.pop();
  }
  return { logprob: logits[drawn] - logNormalizer, top };
}
