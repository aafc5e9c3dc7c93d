/** Hashes a block's tokens, chained to the hash of the block before it (null for a first block). */
export type TokenHash = (tokenIds: readonly number[], prefixHash: number | null) => number;

/**
 * Two 32-bit lanes of multiply-and-rotate mixing (the finaliser is MurmurHash3's), joined into one 53-bit integer, so that it
 * can key a Map as a plain number. Not cryptographic: whoever looks a hash up compares the tokens too.
 */
export const hashTokens: TokenHash = (tokenIds, prefixHash) => {
  let a = 0x9e3779b9 ^ tokenIds.length;
  let b = prefixHash === null ? 0x85ebca6b : 0xc2b2ae35;
  const mix = (word: number) => {
    a = Math.imul(rotate(a ^ Math.imul(word, 0xcc9e2d51), 13), 5) + 0x52dce729;
    b = Math.imul(rotate(b ^ Math.imul(word, 0x1b873593), 17), 9) + 0x38495ab5;
  };
  if (prefixHash !== null) {
    mix(prefixHash | 0);
    mix(Math.floor(prefixHash / 2 ** 32));
  }
  for (const id of tokenIds) mix(id);
  return (finalize(a ^ rotate(b, 16)) >>> 11) * 2 ** 32 + (finalize(b) >>> 0);
};

const rotate = (x: number, bits: number): number => (x << bits) | (x >>> (32 - bits));

function finalize(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return x ^ (x >>> 16);
}
