// The model runner: what a prefill step is packed into, log-probabilities by place, the first steps before the first request.
import { describe, expect, test, vi } from 'vitest';
import { ReferenceBackend } from '#nano/backends/reference/index';
import { type ModelRunner, packPrefill } from '#nano/engine/model-runner';
import type { SamplingOptions } from '#nano/sampling-params';
import { fakeDevice } from './helpers/fake-device';
import { TINY_CONFIG } from './helpers/tiny-model';
import { extend, makeRunner, prefill, sequence } from './helpers/tiny-runner';

const LAYERS = TINY_CONFIG.num_hidden_layers;

describe('a prefill step is packed', () => {
  test('the planned tokens of all sequences, one behind the other, each where its block table says', () => {
    const [a, b] = [
      sequence([10, 11, 12, 13, 14, 15], { blockTable: [7, 2], numCachedTokens: 3, numScheduledTokens: 3 }),
      sequence([20, 21, 22, 23, 24], { blockTable: [5, 0], numCachedTokens: 0, numScheduledTokens: 2 }), // a chunk
    ];
    expect(packPrefill([a, b], 4)).toEqual({
      inputIds: Int32Array.of(13, 14, 15, 20, 21),
      positions: Int32Array.of(3, 4, 5, 0, 1),
      slotMapping: Int32Array.of(7 * 4 + 3, 2 * 4, 2 * 4 + 1, 5 * 4, 5 * 4 + 1),
      cuSeqlensQ: Int32Array.of(0, 3, 5),
      cuSeqlensK: Int32Array.of(0, 6, 8),
      maxSeqlenQ: 3,
      maxSeqlenK: 6,
      lastRows: Int32Array.of(2, 4),
    });
  });

  test('of no sequence it is empty', () => {
    expect(packPrefill([], 4)).toMatchObject({ inputIds: Int32Array.of(), maxSeqlenQ: 0, maxSeqlenK: 0 });
  });
});

describe('log-probabilities', () => {
  const prompts = [
    [1, 2, 3],
    [4, 5],
    [6, 7, 8, 9],
  ];
  const batch = (params: SamplingOptions[]) =>
    prompts.map((prompt, i) =>
      sequence(prompt, { blockTable: [2 * i, 2 * i + 1], tokenSlot: i }, { temperature: 0, ...params[i] }),
    );

  test('come for those that asked, by their place in the batch, in prefill and in decode', async () => {
    const { runner } = makeRunner(new ReferenceBackend(), { padDecodeBatches: true });
    runner.allocateKvCache(8);
    /** Both steps' results, and what was read: logits only where somebody wants them. */
    const run = async (params: SamplingOptions[]) => {
      const seqs = batch(params);
      const first = await runner.launch(prefill(...seqs));
      extend(seqs, first.tokenIds);
      const second = await runner.launch({ isPrefill: false, seqs, numDrawing: 3 });
      return [first, second];
    };
    const all = await run([{ logprobs: 2 }, { logprobs: 2 }, { logprobs: 2 }]);
    const some = await run([{}, { logprobs: 2 }, {}]);
    const none = await run([{}, {}, {}]);
    all.forEach(({ tokenIds, logprobs }, step) => {
      expect([...logprobs.keys()]).toEqual([0, 1, 2]);
      for (const [i, { logprob, top }] of logprobs) {
        expect(top).toHaveLength(2);
        expect(top[0]).toEqual({ tokenId: tokenIds[i], logprob }); // greedy takes the likeliest
      }
      expect(some[step].logprobs).toEqual(new Map([[1, logprobs.get(1)]]));
      expect(none[step].logprobs.size).toBe(0);
    });
  });

  test('logits cross to the host only when somebody wants log-probabilities', async () => {
    const backend = new ReferenceBackend();
    const { runner } = makeRunner(backend);
    runner.allocateKvCache(8);
    const read = vi.spyOn(backend, 'read');
    await runner.launch(prefill(...batch([{}, {}, {}])));
    expect(read.mock.calls.map(([{ shape }]) => shape)).toEqual([[3]]);
    read.mockClear();
    await runner.launch(prefill(...batch([{}, {}, { logprobs: 0 }])));
    expect(read.mock.calls.map(([{ shape }]) => shape)).toEqual([[3], [3, TINY_CONFIG.vocab_size]]);
  });

  test('are not read for a sequence that draws nothing in this step', async () => {
    const backend = new ReferenceBackend();
    const { runner } = makeRunner(backend);
    runner.allocateKvCache(8);
    const seqs = batch([{}, {}, { logprobs: 2 }]);
    const step = { ...prefill(...seqs), numDrawing: 2 };
    expect((await runner.launch(step)).logprobs.size).toBe(0);
  });
});

test('a step in which nobody draws ends with a read all the same, which tells that it is done', async () => {
  const device = fakeDevice(new ReferenceBackend());
  const { runner } = makeRunner(device, { skipWarmUp: true });
  runner.allocateKvCache(8);
  const seq = sequence([1, 2, 3, 4, 5], { blockTable: [0, 1], tokenSlot: 0, numScheduledTokens: 3 });
  const sampled = vi.spyOn(device, 'sample');
  device.log.length = 0;
  const { logprobs } = await runner.launch({ isPrefill: true, seqs: [seq], numDrawing: 0 });
  expect(device.log.at(-1)).toBe('read');
  expect(sampled).not.toHaveBeenCalled();
  expect(logprobs.size).toBe(0);
});

describe('warm-up', () => {
  const setup = (options: Parameters<typeof makeRunner>[1] = {}, backend = new ReferenceBackend()) => {
    const device = fakeDevice(backend);
    const { runner } = makeRunner(device, options);
    const prefilled = vi.spyOn(backend, 'attnVarlen').mockClear();
    runner.allocateKvCache(8);
    /** New tokens and keys of each prefill, in the first layer. */
    const lengths = prefilled.mock.calls.map(([, q, , , { maxSeqlenK }]) => [q.shape[0], maxSeqlenK]);
    return { device, runner, lengths: lengths.filter((_, i) => i % LAYERS === 0) };
  };

  test('takes 32 prefill and 32 decode steps before the first request, and waits for none of them', () => {
    const { device, lengths } = setup();
    expect(lengths).toEqual(Array(32).fill([24, 24]));
    expect(device.log.filter((entry) => entry === 'launch')).toHaveLength(32);
    expect(device.log).not.toContain('read');
    expect(device.log.indexOf('launch')).toBeGreaterThan(device.log.lastIndexOf('capture'));
  });

  test.each([
    ['512 tokens', { maxModelLen: 600, maxNumBatchedTokens: 700 }, 512],
    ['the longest request', { maxModelLen: 20, maxNumBatchedTokens: 700 }, 20],
    ['the largest step', { maxModelLen: 600, maxNumBatchedTokens: 9 }, 9],
  ])('its prompt has at most %s', (_, options, expected) => {
    const backend = new ReferenceBackend();
    vi.spyOn(backend, 'attnVarlen').mockImplementation(() => {}); // the lengths alone are looked at
    expect(setup(options, backend).lengths[0]).toEqual([expected, expected]);
  });

  test('its decode steps draw the token behind that prompt', () => {
    const backend = new ReferenceBackend();
    const lengths: Int32Array[] = [];
    const { attnWithKvCache } = backend;
    vi.spyOn(backend, 'attnWithKvCache').mockImplementation((out, q, k, v, args) => {
      const { storage, offset, numel } = args.contextLens;
      lengths.push((storage.array as Int32Array).slice(offset, offset + numel));
      attnWithKvCache(out, q, k, v, args);
    });
    setup({}, backend);
    expect(lengths.slice(-32 * LAYERS)).toEqual(Array(32 * LAYERS).fill(Int32Array.of(24)));
  });

  test('writes to block 0 alone, and leaves no trace in what follows', async () => {
    const backend = new ReferenceBackend();
    const slots: number[] = [];
    const { storeKvCache } = backend;
    vi.spyOn(backend, 'storeKvCache').mockImplementation((k, v, kCache, vCache, mapping) => {
      const { storage, offset, numel } = mapping;
      slots.push(...(storage.array as Int32Array).subarray(offset, offset + numel));
      storeKvCache(k, v, kCache, vCache, mapping);
    });
    const { runner } = setup({}, backend);
    expect(slots).toContain(3);
    expect(Math.max(...slots)).toBeLessThan(4);

    const results = async (someRunner: ModelRunner) => {
      const seqs = [sequence([1, 2, 3], { blockTable: [0, 1], tokenSlot: 0 }, { temperature: 0, logprobs: 3 })];
      const first = await someRunner.launch(prefill(...seqs));
      extend(seqs, first.tokenIds);
      return [first.logprobs, (await someRunner.launch({ isPrefill: false, seqs, numDrawing: 1 })).logprobs];
    };
    const cold = setup({ skipWarmUp: true });
    expect(await results(runner)).toEqual(await results(cold.runner));
  });

  test('is left out where it is told to be, and where steps are not launched ahead', () => {
    expect(setup({ skipWarmUp: true }).lengths).toEqual([]);
    const backend = new ReferenceBackend();
    const { runner } = makeRunner(backend);
    const embedded = vi.spyOn(backend, 'attnVarlen').mockClear();
    runner.allocateKvCache(8);
    expect(embedded).not.toHaveBeenCalled();
  });
});

describe('memory', () => {
  test('the cache has a key and a value of every layer, for every block', () => {
    const backend = new ReferenceBackend();
    const { runner } = makeRunner(backend);
    const before = backend.allocatedBytes;
    runner.allocateKvCache(10);
    const { num_key_value_heads: heads, head_dim: dim } = TINY_CONFIG;
    expect(backend.allocatedBytes - before).toBe(2 * LAYERS * 10 * 4 * heads * dim * 4);
  });

  test('for activations suffices for the largest prefill and the largest decode step', async () => {
    const { runner } = makeRunner(new ReferenceBackend(), { maxModelLen: 16, maxNumBatchedTokens: 20, maxNumSeqs: 4 });
    runner.allocateKvCache(16);
    const tables = [0, 1, 2, 3].map((i) => [4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3]);
    const seqs = tables.map((blockTable, i) =>
      sequence([1, 2, 3, 4, 5], { blockTable, tokenSlot: i }, { logprobs: 1 }),
    );
    const { tokenIds } = await runner.launch(prefill(...seqs)); // 20 tokens, all of them drawing
    extend(seqs, tokenIds);
    while (seqs[0].numTokens < 16) {
      extend(seqs, (await runner.launch({ isPrefill: false, seqs, numDrawing: 4 })).tokenIds);
    }
    expect(seqs.map(({ numTokens }) => numTokens)).toEqual([16, 16, 16, 16]);
  });

  test('for activations suffices for dense attention of a full decode batch, which takes more than its prefill', async () => {
    const options = { attnBackend: 'sdpa.math', maxModelLen: 256, maxNumBatchedTokens: 4, maxNumSeqs: 4 } as const;
    const { runner } = makeRunner(new ReferenceBackend(), options);
    runner.allocateKvCache(64);
    const blockTable = Array.from({ length: 64 }, (_, i) => i);
    const seqs = [0, 1, 2, 3].map((tokenSlot) => sequence(Array(256).fill(1), { blockTable, tokenSlot }));
    expect((await runner.launch({ isPrefill: false, seqs, numDrawing: 4 })).tokenIds).toHaveLength(4);
  });
});
