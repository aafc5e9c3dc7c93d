/**
 * Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a random
 * number generator without state. The same counter and key always give the same four words, so the
 * noise of (seed, position, token) can be computed anywhere, in any order, by any thread.
 */
export function philox4x32(counter: readonly [number, number, number, number], key: readonly [number, number]) {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const [hi0, lo0] = multiply(0xd2511f53, c0);
    const [hi1, lo1] = multiply(0xcd9e8d57, c2);
    [c0, c1, c2, c3] = [(hi1 ^ c1 ^ k0) >>> 0, lo1, (hi0 ^ c3 ^ k1) >>> 0, lo0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3] as const;
}

/** The 64-bit product of two 32-bit words, as [high, low]. */
function multiply(a: number, b: number): [number, number] {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const low = aLow * bLow;
  const middle = aHigh * bLow + (low >>> 16); // < 2^32: cannot overflow a double
  const middle2 = aLow * bHigh + (middle % 0x10000);
  const high = aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(middle2 / 0x10000);
  return [high >>> 0, Math.imul(a, b) >>> 0];
}

/**
 * Standard Gumbel noise for one candidate token. Adding it to `logit / temperature` and taking the
 * argmax draws from the softmax (the Gumbel-max trick). One Philox block serves four neighbouring
 * token ids. u lies strictly between 0 and 1, so the noise lies in about (-3.1, 22.9).
 */
export function gumbelNoise(seedLow: number, seedHigh: number, position: number, tokenId: number): number {
  const words = philox4x32([position >>> 0, tokenId >>> 2, 0, 0], [seedLow >>> 0, seedHigh >>> 0]);
  const u = (words[tokenId & 3] + 0.5) * 2 ** -32;
  return -Math.log(-Math.log(u));
}
