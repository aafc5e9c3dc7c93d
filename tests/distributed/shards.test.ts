import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { checkShards, kvHeadShard, shardOf, vocabShard } from '#nano/distributed/shards';
import { decodeStep, encodeStep } from '#nano/distributed/step-message';
import type { StepSequence } from '#nano/engine/step';
import { parseModelConfig } from '#nano/models/model-config';
import { TINY_CONFIG } from '../helpers/tiny-model';

const ranksOf = (worldSize: number) => Array.from({ length: worldSize }, (_, rank) => ({ rank, worldSize }));

describe('shards', () => {
  test('of things that share evenly lie one behind the other and are all there is', () => {
    expect(ranksOf(4).map((place) => shardOf(12, place))).toEqual([
      { first: 0, count: 3 },
      { first: 3, count: 3 },
      { first: 6, count: 3 },
      { first: 9, count: 3 },
    ]);
    expect(() => shardOf(10, { rank: 0, worldSize: 4 })).toThrow('10 cannot be shared evenly by 4 ranks');
  });

  test('of any vocabulary cover each token once, none longer than the padded size', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 1, max: 16 }), (vocabSize, worldSize) => {
        const shards = ranksOf(worldSize).map((place) => vocabShard(vocabSize, place));
        const tokens = shards.flatMap(({ first, count }) => Array.from({ length: count }, (_, i) => first + i));
        expect(tokens).toEqual(Array.from({ length: vocabSize }, (_, i) => i));
        for (const { count, padded } of shards) expect(count).toBeLessThanOrEqual(padded);
        // Rank r's rows begin where a gather of padded shards puts them.
        shards.forEach(({ first, count, padded }, r) => count > 0 && expect(first).toBe(r * padded));
      }),
    );
  });

  test('of key/value heads hold the head that each of the rank’s query heads reads', () => {
    const cases = [1, 2, 3, 4, 6, 8].flatMap((kv) => [1, 2, 3, 4, 8].map((group) => ({ kv, q: kv * group })));
    for (const { kv, q } of cases) {
      for (const worldSize of [1, 2, 3, 4, 6, 8, 16]) {
        if (q % worldSize !== 0 || (kv % worldSize !== 0 && worldSize % kv !== 0)) continue;
        for (const place of ranksOf(worldSize)) {
          const [queries, keys] = [shardOf(q, place), kvHeadShard(kv, place)];
          for (let h = 0; h < queries.count; h++) {
            const wanted = Math.floor((queries.first + h) / (q / kv));
            const local = Math.floor(h / (queries.count / keys.count));
            expect(keys.first + local, `${q}/${kv} heads, rank ${place.rank} of ${worldSize}`).toBe(wanted);
          }
        }
      }
    }
  });

  test('that do not fit are refused with the size, the number of ranks and those that do', () => {
    const model = (sizes: object) => parseModelConfig(JSON.stringify({ ...TINY_CONFIG, ...sizes }), 'config.json');
    const sizes = { num_attention_heads: 12, num_key_value_heads: 4, intermediate_size: 96 };
    for (const n of [1, 2, 4, 12]) expect(() => checkShards(model(sizes), n)).not.toThrow();
    expect(() => checkShards(model(sizes), 5)).toThrow(
      'tensorParallelSize 5 does not fit the model: its num_attention_heads 12 cannot be shared evenly by 5 ranks. Use 1, 2, 4 or 12.',
    );
    expect(() => checkShards(model(sizes), 3)).toThrow('num_key_value_heads 4 cannot be shared evenly by 3 ranks');
    expect(() => checkShards(model({ ...sizes, intermediate_size: 50 }), 4)).toThrow('intermediate_size 50');
  });
});

describe('a step as a message', () => {
  const word = fc.integer({ min: 0, max: 2 ** 31 - 1 });
  const sequence = fc.record({
    cached: fc.nat(50),
    scheduled: fc.integer({ min: 1, max: 30 }),
    further: fc.nat(5),
    numOutputTokens: word,
    tokenSlot: fc.nat(500),
    requestIndex: word,
    blockTable: fc.array(word, { maxLength: 20 }),
    samplingParams: fc.record({
      temperature: fc.float({ min: 0, max: 2, noNaN: true }),
      topK: word,
      topP: fc.float({ min: Math.fround(0.01), max: 1, noNaN: true }),
      minP: fc.float({ min: 0, max: 1, noNaN: true }),
      seed: fc.option(fc.nat(Number.MAX_SAFE_INTEGER), { nil: undefined }),
      logprobs: fc.constant(undefined),
    }),
  });
  const step = fc.record({ isPrefill: fc.boolean(), numDrawing: fc.nat(20), sequences: fc.array(sequence) });

  test('arrives as it was sent', () => {
    fc.assert(
      fc.property(step, ({ isPrefill, numDrawing, sequences }) => {
        const seqs = sequences.map(({ cached, scheduled, further, ...rest }): StepSequence => {
          const numTokens = cached + scheduled + further;
          const tokenIds = Array.from({ length: numTokens }, (_, i) => i * 31);
          return { numTokens, numCachedTokens: cached, numScheduledTokens: scheduled, tokenIds, ...rest };
        });
        const arrived = decodeStep(encodeStep({ isPrefill, numDrawing, seqs }));
        expect(arrived).toMatchObject({ isPrefill, numDrawing });
        expect(arrived.seqs.length).toBe(seqs.length);
        arrived.seqs.forEach(({ tokenIds, ...rest }, i) => {
          const { tokenIds: sent, ...expected } = seqs[i];
          expect(rest).toEqual(expected);
          const { numCachedTokens: start, numScheduledTokens: count } = seqs[i];
          if (isPrefill) expect(tokenIds.slice(start)).toEqual(sent.slice(start, start + count));
        });
      }),
    );
  });

  test('takes about 300 bytes for a sequence of 1000 tokens in blocks of 16', () => {
    const samplingParams = { temperature: 1, topK: 0, topP: 1, minP: 0, seed: undefined, logprobs: undefined };
    const lengths = { numTokens: 1000, numCachedTokens: 999, numScheduledTokens: 1, numOutputTokens: 1 };
    const seq = {
      ...lengths,
      tokenIds: [],
      blockTable: new Array(63).fill(7),
      tokenSlot: 1,
      requestIndex: 1,
      samplingParams,
    };
    expect(encodeStep({ isPrefill: false, numDrawing: 1, seqs: [seq] }).byteLength).toBe(4 * (3 + 15 + 63));
  });
});
