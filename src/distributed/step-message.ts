import type { Step, StepSequence } from '#nano/engine/step';

/*
 * A step as 32-bit words, in an order that both sides know: fewer bytes than an object with names in it, and a fraction of the
 * time to pack. For each sequence, behind three words about the step:
 *
 *   11 integers: lengths, token slot, seed, topK    3 floats: temperature, topP, minP
 *   the number of its blocks, then the blocks       in a prefill: the tokens to compute
 */
const HEADER_WORDS = 3;
const SEQUENCE_WORDS = 15;

/** @returns the message; logprobs are rank 0's affair and left out. */
export function encodeStep({ isPrefill, numDrawing, seqs }: Step): Int32Array {
  const tokensOf = (seq: StepSequence) => (isPrefill ? seq.numScheduledTokens : 0);
  const words = seqs.reduce((sum, seq) => sum + SEQUENCE_WORDS + seq.blockTable.length + tokensOf(seq), HEADER_WORDS);
  const ints = new Int32Array(words);
  const floats = new Float32Array(ints.buffer);
  let at = 0;
  const put = (value: number) => {
    ints[at++] = value;
  };
  put(isPrefill ? 1 : 0);
  put(numDrawing);
  put(seqs.length);
  for (const seq of seqs) {
    const { temperature, topK, topP, minP, seed } = seq.samplingParams;
    put(seq.numTokens);
    put(seq.numCachedTokens);
    put(seq.numScheduledTokens);
    put(seq.numOutputTokens);
    put(seq.tokenSlot);
    put(seq.requestIndex);
    put(seed === undefined ? 0 : 1);
    put((seed ?? 0) % 2 ** 32);
    put(Math.floor((seed ?? 0) / 2 ** 32));
    put(Math.min(topK, 0x7fffffff));
    floats[at++] = temperature;
    floats[at++] = topP;
    floats[at++] = minP;
    put(tokensOf(seq));
    put(seq.blockTable.length);
    for (const block of seq.blockTable) put(block);
    for (let i = 0; i < tokensOf(seq); i++) put(seq.tokenIds[seq.numCachedTokens + i]);
  }
  return ints;
}

/** The step as rank 0 saw it, but that of a sequence's tokens only those to compute are there. */
export function decodeStep(ints: Int32Array): Step {
  const floats = new Float32Array(ints.buffer, ints.byteOffset, ints.length);
  let at = 0;
  const take = () => ints[at++];
  const takeMany = (count: number) => Array.from(ints.subarray(at, (at += count)));
  const isPrefill = take() === 1;
  const numDrawing = take();
  const seqs = Array.from({ length: take() }, (): StepSequence => {
    const [numTokens, numCachedTokens, numScheduledTokens, numOutputTokens, tokenSlot, requestIndex] = takeMany(6);
    const [hasSeed, seedLow, seedHigh, topK] = takeMany(4);
    const [temperature, topP, minP] = floats.subarray(at, (at += 3));
    const seed = hasSeed ? (seedLow >>> 0) + seedHigh * 2 ** 32 : undefined;
    const [numIds, numBlocks] = takeMany(2);
    const blockTable = takeMany(numBlocks);
    const tokenIds = new Array<number>(numCachedTokens); // holes: nobody asks for what is in the cache
    tokenIds.push(...takeMany(numIds));
    const lengths = { numTokens, numCachedTokens, numScheduledTokens, numOutputTokens };
    const samplingParams = { temperature, topK, topP, minP, seed, logprobs: undefined };
    return { ...lengths, tokenSlot, requestIndex, blockTable, tokenIds, samplingParams };
  });
  return { isPrefill, numDrawing, seqs };
}
