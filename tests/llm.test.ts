import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { LLM } from '#nano/llm';

const STORYTELLER = fileURLToPath(new URL('../models/storyteller', import.meta.url));
const PROMPT = 'Once upon a time';
const GREEDY = { temperature: 0, maxTokens: 24 };

let llm: LLM;
beforeAll(async () => {
  llm = await LLM.load(STORYTELLER, { maxModelLen: 256, maxNumSeqs: 8, seed: 1 });
});
afterAll(() => llm.close());

/** No request, however it ends, may keep blocks. */
function expectNoLeak(): void {
  const { numFreeBlocks, numKvCacheBlocks } = llm.stats();
  expect(numFreeBlocks).toBe(numKvCacheBlocks);
}

describe('generate', () => {
  test('one result a prompt, in order, for text and token ids alike', async () => {
    const ids = llm.tokenizer.encode(PROMPT);
    const [a, b, c] = await llm.generate([PROMPT, 'One morning, a little fox', ids], GREEDY);
    expect(a.promptTokenIds).toEqual(ids);
    expect(c.tokenIds).toEqual(a.tokenIds);
    expect(c.text).toBe(a.text);
    expect(b.text).not.toBe(a.text);
    expect(a.text).toBe(llm.tokenizer.decode(a.tokenIds, { skipSpecialTokens: true }));
    expect([a.finishReason, a.tokenIds.length]).toEqual(['length', 24]);
    expect([a.prompt, c.prompt]).toEqual([PROMPT, undefined]);
    expectNoLeak();
  });

  test('a single prompt gives an array of one; no prompts give none', async () => {
    expect(await llm.generate(PROMPT, GREEDY)).toHaveLength(1);
    expect(await llm.generate([llm.tokenizer.encode(PROMPT)], GREEDY)).toHaveLength(1);
    expect(await llm.generate([], GREEDY)).toEqual([]);
  });

  test('parameters for each prompt, and a count that must match', async () => {
    const outputs = await llm.generate([PROMPT, PROMPT], [GREEDY, { temperature: 0, maxTokens: 3 }]);
    expect(outputs.map((o) => o.tokenIds.length)).toEqual([24, 3]);
    await expect(llm.generate([PROMPT, PROMPT], [GREEDY])).rejects.toThrow(/2 prompts came with 1 sampling parameters/);
  });

  test('seeds repeat; other seeds differ', async () => {
    const draw = async (seed: number) =>
      (await llm.generate(PROMPT, { temperature: 1, maxTokens: 30, seed }))[0].tokenIds;
    expect(await draw(7)).toEqual(await draw(7));
    expect(await draw(7)).not.toEqual(await draw(8));
  });

  test('a story ends by itself', async () => {
    const messages = [{ role: 'user', content: 'Who are you?' }];
    const output = await llm.chat(messages, { temperature: 0, maxTokens: 120 });
    expect(output.finishReason).toBe('stop');
    expect(output.text).not.toMatch(/<\|/);
  });

  test('log-probabilities: best first, consistent with greedy choice, and they sum to at most one', async () => {
    const [{ logprobs, tokenIds }] = await llm.generate(PROMPT, { ...GREEDY, logprobs: 5 });
    expect(logprobs).toHaveLength(tokenIds.length);
    logprobs?.forEach(({ logprob, top }, i) => {
      expect(top).toHaveLength(5);
      expect(top[0]).toEqual({ tokenId: tokenIds[i], logprob });
      expect(top.map((t) => t.logprob)).toEqual(top.map((t) => t.logprob).sort((a, b) => b - a));
      expect(top.reduce((sum, t) => sum + Math.exp(t.logprob), 0)).toBeLessThanOrEqual(1 + 1e-6);
    });
  });

  test('stop strings that span tokens cut the text before them', async () => {
    const [whole] = await llm.generate(PROMPT, GREEDY);
    const words = whole.text.split(' ');
    const stop = `${words[3].slice(-2)} ${words[4].slice(0, 2)}`;
    const [stopped] = await llm.generate(PROMPT, { ...GREEDY, stop });
    expect(stopped.finishReason).toBe('stop');
    expect(stopped.text).toBe(whole.text.slice(0, whole.text.indexOf(stop)));
    expectNoLeak();
  });

  test('stopTokenIds end the text; the token is reported', async () => {
    const [whole] = await llm.generate(PROMPT, GREEDY);
    const stopAt = whole.tokenIds[10];
    const [stopped] = await llm.generate(PROMPT, { ...GREEDY, stopTokenIds: [stopAt] });
    expect(stopped.tokenIds).toEqual(whole.tokenIds.slice(0, whole.tokenIds.indexOf(stopAt) + 1));
    expect(stopped.finishReason).toBe('stop');
  });

  test('an AbortSignal ends all prompts of a call with what they have', async () => {
    const controller = new AbortController();
    const running = llm.generate([PROMPT, PROMPT], { temperature: 0, maxTokens: 200, ignoreEos: true }, controller);
    setTimeout(() => controller.abort(), 30);
    const outputs = await running;
    expect(outputs.map((o) => o.finishReason)).toEqual(['abort', 'abort']);
    expect(outputs[0].tokenIds.length).toBeLessThan(200);
    expectNoLeak();
  });

  test('prompts that begin alike share cached blocks', async () => {
    const prompt = `${PROMPT}, in a village by the sea, there lived a small grey mouse named Nia who baked bread every morning.`;
    const before = llm.stats().cachedPromptTokens;
    const [a] = await llm.generate(prompt, GREEDY);
    const [b] = await llm.generate(prompt, GREEDY);
    expect(b.numCachedTokens).toBeGreaterThanOrEqual(16);
    expect(b.tokenIds).toEqual(a.tokenIds);
    expect(llm.stats().cachedPromptTokens).toBeGreaterThan(before);
  });
});

describe('stream', () => {
  test('the pieces make up the text that generate gives', async () => {
    const [whole] = await llm.generate(PROMPT, GREEDY);
    let text = '';
    let last: string | undefined;
    for await (const delta of llm.stream(PROMPT, GREEDY)) {
      text += delta.text;
      last = delta.output?.finishReason;
    }
    expect(text).toBe(whole.text);
    expect(last).toBe('length');
  });

  test('text held back as a possible stop string comes out at the end', async () => {
    const [whole] = await llm.generate(PROMPT, GREEDY);
    const stop = `${whole.text.slice(-3)}QQQ`; // begins like the end of the text, and never comes
    let text = '';
    for await (const delta of llm.stream(PROMPT, { ...GREEDY, stop })) text += delta.text;
    expect(text).toBe(whole.text);
  });

  test('leaving the loop aborts the request; others go on', async () => {
    const other = llm.generate(PROMPT, GREEDY);
    for await (const delta of llm.stream(PROMPT, { temperature: 0, maxTokens: 200, ignoreEos: true })) {
      if (delta.tokenIds.length > 0) break;
    }
    expect((await other)[0].tokenIds).toHaveLength(24);
    await llm.generate(PROMPT, { ...GREEDY, maxTokens: 1 });
    expectNoLeak();
  });

  test('many at once give what each gives alone', async () => {
    const collect = async (seed: number) => {
      let text = '';
      for await (const delta of llm.stream(PROMPT, { temperature: 1, seed, maxTokens: 20 })) text += delta.text;
      return text;
    };
    const together = await Promise.all([1, 2, 3, 4, 5].map(collect));
    for (const seed of [1, 2, 3, 4, 5]) expect(await collect(seed)).toBe(together[seed - 1]);
  });
});

describe('bad requests are refused, and the next one works', () => {
  test.each<[string, unknown, object, RegExp]>([
    ['empty text', '', {}, /prompt is empty/],
    ['no token ids in a batch', [[]], {}, /prompt is empty/],
    ['a prompt as long as maxModelLen', Array(256).fill(5), {}, /256 tokens.*maxModelLen 256 at most 255/],
    ['a token id beyond the vocabulary', [5, 2048], {}, /Token id 2048 .* 0 to 2047/],
    ['a negative token id', [-1], {}, /Token id -1/],
    ['half a token id', [1.5], {}, /Token id 1.5/],
    ['temperature', PROMPT, { temperature: -1 }, /temperature must be 0 or a number from 0.01 to 100, got -1/],
    ['temperature NaN', PROMPT, { temperature: Number.NaN }, /temperature .* got NaN/],
    ['topK', PROMPT, { topK: 1.5 }, /topK must be a whole number of at least 0, got 1.5/],
    ['topP 0', PROMPT, { topP: 0 }, /topP must be a number above 0 and at most 1, got 0/],
    ['topP above 1', PROMPT, { topP: 1.01 }, /topP .* got 1.01/],
    ['minP', PROMPT, { minP: 2 }, /minP must be a number from 0 to 1, got 2/],
    ['maxTokens', PROMPT, { maxTokens: 0 }, /maxTokens .* at least 1, got 0/],
    ['stop', PROMPT, { stop: [''] }, /stop must be a non-empty string/],
    ['stopTokenIds', PROMPT, { stopTokenIds: [-3] }, /stopTokenIds .* got \[-3\]/],
    ['stopTokenIds beyond the vocabulary', PROMPT, { stopTokenIds: [99999] }, /stopTokenIds entry 99999/],
    ['seed', PROMPT, { seed: -1 }, /seed .* got -1/],
    ['logprobs', PROMPT, { logprobs: 21 }, /logprobs must be a whole number from 0 to 20, got 21/],
    ['ignoreEos', PROMPT, { ignoreEos: 'yes' }, /ignoreEos must be true or false, got "yes"/],
    ['an unknown parameter', PROMPT, { temprature: 1 }, /Unknown option 'temprature'/],
  ])('%s', async (_, prompt, params, message) => {
    const generating = llm.generate(prompt as string, params);
    await expect(generating).rejects.toThrow(message);
    await expect(generating).rejects.toHaveProperty('name', 'InvalidRequestError');
    expect((await llm.generate(PROMPT, { ...GREEDY, maxTokens: 2 }))[0].tokenIds).toHaveLength(2);
    expectNoLeak();
  });

  test('one bad prompt among good ones refuses the call before anything runs', async () => {
    const { generatedTokens } = llm.stats();
    await expect(llm.generate([PROMPT, ''], GREEDY)).rejects.toThrow(/prompt is empty/);
    await llm.generate(PROMPT, { ...GREEDY, maxTokens: 1 });
    expect(llm.stats().generatedTokens).toBe(generatedTokens + 1);
    expectNoLeak();
  });

  test('output stops at maxModelLen', async () => {
    const prompt = Array(250).fill(5);
    const [{ tokenIds, finishReason }] = await llm.generate([prompt], {
      temperature: 0,
      maxTokens: 100,
      ignoreEos: true,
    });
    expect([tokenIds.length, finishReason]).toEqual([6, 'length']);
  });
});

describe('the attention backend that was asked for is the one that runs', () => {
  test.each(['flash', 'sdpa.math'] as const)('%s, by option', async (attnBackend) => {
    const other = await LLM.load(STORYTELLER, { attnBackend, maxModelLen: 64, maxNumSeqs: 2 });
    const [{ text }] = await other.generate(PROMPT, GREEDY);
    expect(text).toBe((await llm.generate(PROMPT, GREEDY))[0].text);
    const { attnCalls } = other.stats();
    expect(attnCalls[attnBackend]).toBeGreaterThan(0);
    expect(attnCalls[attnBackend === 'flash' ? 'sdpa.math' : 'flash']).toBe(0);
    await other.close();
  });

  test('by environment, and a wrong value says so', async () => {
    process.env.NANOVLLM_ATTN_BACKEND = 'sdpa.math';
    const other = await LLM.load(STORYTELLER, { maxModelLen: 64 });
    expect(other.stats().attnBackend).toBe('sdpa.math');
    await other.close();
    process.env.NANOVLLM_ATTN_BACKEND = 'flahs';
    await expect(LLM.load(STORYTELLER)).rejects.toThrow(
      /NANOVLLM_ATTN_BACKEND must be one of flash, sdpa.math, got 'flahs'/,
    );
    delete process.env.NANOVLLM_ATTN_BACKEND;
  });
});

test('close ends what runs, frees everything, and may be called twice', async () => {
  const other = await LLM.load(STORYTELLER, { maxModelLen: 256 });
  const running = other.generate(PROMPT, { temperature: 0, maxTokens: 200, ignoreEos: true });
  await new Promise((resolve) => setTimeout(resolve, 20));
  await other.close();
  expect((await running)[0].finishReason).toBe('abort');
  await other.close();
  expect(other.stats().allocatedBytes).toBe(0);
  await expect(other.generate(PROMPT)).rejects.toThrow(/closed/);
});
