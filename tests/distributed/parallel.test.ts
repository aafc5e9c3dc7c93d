import { describe, expect, test } from 'vitest';
import { ConfigError } from '#nano/errors';
import { LLM } from '#nano/llm';
import { goldenNames, readGolden } from '../helpers/models';

// Ranks in threads run what is built (dist), which pretest keeps up to date.
const options = { dtype: 'float32', maxModelLen: 256, maxNumSeqs: 8, kvCacheBlockSize: 8 } as const;
const greedy = { temperature: 0, maxTokens: 64, ignoreEos: true };

const generated = async (llm: LLM, prompts: readonly (readonly number[])[], params: object = greedy) =>
  (await llm.generate(prompts, params, { progress: false })).map(({ tokenIds }) => tokenIds);

describe.each(['cpu', 'reference'] as const)('tensor parallelism on %s', (backend) => {
  for (const name of goldenNames()) {
    test.each([2, 3, 4])(`${name}: %i ranks give the greedy tokens of one, or say why not`, async (n) => {
      const golden = await readGolden(name);
      if (backend === 'reference' && (n !== 2 || name === 'storyteller')) return; // slow, and the same layers
      const load = LLM.load(golden.folder, { ...options, backend, tensorParallelSize: n });
      const fits = { mha: [3], 'square-d64-tied': [] as number[] }[name.startsWith('mha') ? 'mha' : name] ?? [2, 4];
      if (!fits.includes(n)) {
        await expect(load).rejects.toThrow(ConfigError);
        await expect(load).rejects.toThrow(`tensorParallelSize ${n} does not fit the model: its num_`);
        return;
      }
      const llm = await load;
      const prompts = golden.prompts.map(({ tokenIds }) => tokenIds);
      expect(await generated(llm, prompts)).toEqual(golden.prompts.map((prompt) => prompt.greedy));
      await llm.close();
    });
  }
});

describe('ranks of the storyteller', () => {
  const folder = 'models/storyteller';

  test('draw the same tokens as one rank, with all filters, chunked prefill, prefix hits and preemption', async () => {
    const small = {
      ...options,
      backend: 'cpu',
      numKvCacheBlocks: 40,
      maxNumBatchedTokens: 24,
      kvCacheBlockSize: 8,
    } as const;
    const prompts = Array.from({ length: 12 }, (_, i) => {
      const shared = Array.from({ length: 20 }, (_, t) => 50 + t);
      return [
        ...(i % 2 ? shared : []),
        ...Array.from({ length: 3 + 5 * i }, (_, t) => 100 + ((i * 37 + t * 11) % 900)),
      ];
    });
    const params = prompts.map((_, i) => ({
      ...[{ temperature: 0 }, { temperature: 0.9 }, { temperature: 0.7, topK: 20, topP: 0.9 }, { minP: 0.05 }][i % 4],
      maxTokens: 20 + i,
      ignoreEos: true,
      seed: i % 3 === 0 ? 1000 + i : undefined,
    }));
    const run = async (tensorParallelSize: number) => {
      const llm = await LLM.load(folder, { ...small, maxModelLen: 160, tensorParallelSize, seed: 5 });
      const tokens = await generated(llm, prompts, params);
      const stats = llm.stats();
      await llm.close();
      return { tokens, stats };
    };
    const [alone, two] = [await run(1), await run(2)];
    expect(two.tokens).toEqual(alone.tokens);
    expect(two.stats.numPreemptions, 'the load must preempt').toBeGreaterThan(0);
    expect(two.stats.cachedPromptTokens, 'the load must hit the cache').toBeGreaterThan(0);
    expect(two.stats.numFreeBlocks).toBe(40);
  });

  test('hold 1/n of the parallel weights and of the KV cache each', async () => {
    const memory = async (tensorParallelSize: number) => {
      const llm = await LLM.load(folder, { ...options, backend: 'cpu', numKvCacheBlocks: 64, tensorParallelSize });
      const { ranks } = llm.stats();
      await llm.close();
      expect(ranks.length).toBe(tensorParallelSize);
      return ranks;
    };
    const [[whole], ...parallel] = [await memory(1), await memory(2), await memory(4)];
    // What every rank has whole: two norms of 256 and two of 64 a layer, the last norm, and the rotary table; float32.
    const replicated = 4 * (10 * (2 * 256 + 2 * 64) + 256 + 256 * 64);
    // Two key/value heads: of four ranks, two have a copy of each.
    const kvProjections = 4 * 10 * 2 * 2 * 64 * 256;
    for (const ranks of parallel) {
      const n = ranks.length;
      const copies = (kvProjections / 2) * (1 - Math.min(1, 2 / n));
      for (const { modelBytes, kvCacheBytes } of ranks) {
        expect(modelBytes - replicated - copies).toBe((whole.modelBytes - replicated) / n);
        expect(kvCacheBytes).toBe(whole.kvCacheBytes / 2);
      }
    }
  });

  test('a request that is not acceptable harms nobody', async () => {
    const llm = await LLM.load(folder, { ...options, backend: 'cpu', tensorParallelSize: 2 });
    await expect(llm.generate([[5000]], greedy, { progress: false })).rejects.toThrow('not in the vocabulary');
    expect((await generated(llm, [[1, 2, 3]]))[0]).toHaveLength(64);
    await llm.close();
  });
});
