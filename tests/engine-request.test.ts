// What a request is accepted with, and what is told of it: text, log-probabilities, its output.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { acceptPrompt } from '#nano/engine/accept';
import type { EngineOptions } from '#nano/engine/llm-engine';
import { tokenLogprobs } from '#nano/engine/logprobs';
import { Request } from '#nano/engine/request';
import { Sequence } from '#nano/engine/sequence';
import { InvalidRequestError } from '#nano/errors';
import { type SamplingOptions, SamplingParams } from '#nano/sampling-params';
import { sentencePieceTokenizer } from './helpers/tokenizers';

const tokenizer = sentencePieceTokenizer();
const [A, B, C] = ['a', 'b', 'c'].map((text) => tokenizer.encode(text, { addSpecialTokens: false }).at(-1) as number);

describe('a prompt', () => {
  const options: EngineOptions = {
    maxModelLen: 8,
    maxNumSeqs: 4,
    maxNumBatchedTokens: 64,
    kvCacheBlockSize: 4,
    numKvCacheBlocks: 16,
    enablePrefixCaching: true,
    vocabSize: 300,
    eosTokenIds: [],
    runAhead: false,
  };
  const accept = (prompt: string | number[], params: SamplingOptions = {}, more: Partial<EngineOptions> = {}) =>
    acceptPrompt(prompt, new SamplingParams(params), { ...options, ...more });

  test('of token ids is taken as it is, the first and the last of the vocabulary too', () => {
    const prompt = [0, 299, 5, 6, 7, 8, 9];
    expect(accept(prompt, { stopTokenIds: [0, 299] })).toBe(prompt);
  });

  test('of text is encoded', () => {
    expect(accept('ab c', {}, { tokenizer })).toEqual(tokenizer.encode('ab c'));
  });

  test.each<[string, () => unknown, string]>([
    ['no tokens', () => accept([]), 'The prompt is empty: give at least one token.'],
    [
      'as many tokens as maxModelLen',
      () => accept([1, 2, 3, 4, 5, 6, 7, 8]),
      'The prompt has 8 tokens; with maxModelLen 8 at most 7 fit, which leaves room for one token of output. ' +
        'Shorten it or raise maxModelLen.',
    ],
    [
      'an id beyond the vocabulary',
      () => accept([1, 300]),
      'Token id 300 is not in the vocabulary: ids are whole numbers from 0 to 299.',
    ],
    ['a negative id', () => accept([-1]), 'Token id -1 is not in the vocabulary'],
    ['half an id', () => accept([2.5]), 'Token id 2.5 is not in the vocabulary'],
    ['a stop token of another vocabulary', () => accept([1], { stopTokenIds: [300] }), 'stopTokenIds entry 300 is not'],
    [
      'text where there is no tokenizer',
      () => accept('ab'),
      'The model has no tokenizer.json: give the prompt as token ids, or add that file.',
    ],
    [
      'stop strings where there is no tokenizer',
      () => accept([1], { stop: ['x'] }),
      'Stop strings need a tokenizer, and the model has none: use stopTokenIds.',
    ],
  ])('%s: refused, with the reason', (_, refuse, message) => {
    expect(refuse).toThrow(InvalidRequestError);
    expect(refuse).toThrow(message);
  });

  test('with stop strings is accepted where there is a tokenizer', () => {
    expect(accept([1], { stop: ['x'] }, { tokenizer })).toEqual([1]);
  });
});

describe('log-probabilities', () => {
  // Quarters, few of them: ties are common, and nothing else is so close that rounding makes a tie of it.
  const logits = fc
    .array(fc.integer({ min: -40, max: 40 }), { minLength: 1, maxLength: 24 })
    .map((values) => Float32Array.from(values, (x) => x / 4));

  test('are the log-softmax, best first, and among equals the lower id first', () => {
    fc.assert(
      fc.property(logits, fc.nat(), fc.integer({ min: 0, max: 14 }), (row, pick, count) => {
        const drawn = pick % row.length;
        const { logprob, top } = tokenLogprobs(row, drawn, count);
        const total = Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0));
        expect(logprob).toBeCloseTo(row[drawn] - total, 9);
        const best = Array.from(row.keys()).sort((i, j) => row[j] - row[i] || i - j);
        expect(top.map(({ tokenId }) => tokenId)).toEqual(best.slice(0, count));
        for (const { tokenId, logprob: own } of top) expect(own).toBeCloseTo(row[tokenId] - total, 9);
      }),
    );
  });

  test('of large logits do not overflow', () => {
    const { logprob, top } = tokenLogprobs(Float32Array.of(1000, 1000, -1000), 1, 1);
    expect(logprob).toBeCloseTo(-Math.LN2, 12);
    expect(top).toEqual([{ tokenId: 0, logprob }]);
  });
});

describe('a request', () => {
  const setup = (params: SamplingOptions = {}, withTokenizer = true) => {
    const seq = new Sequence([A, B], new SamplingParams(params));
    seq.start();
    const request = new Request(7, seq, 'the prompt', withTokenizer ? tokenizer : undefined);
    const push = (tokenId: number) => {
      seq.appendToken(tokenId);
      return request.advance(tokenId, undefined);
    };
    return { seq, request, push };
  };

  test('gives its output with the update that ends it, and not before', () => {
    const { seq, request, push } = setup();
    expect(request.update(push(A), [A])).toEqual({
      requestId: 7,
      text: 'a',
      tokenIds: [A],
      logprobs: undefined,
      output: undefined,
    });
    request.numCachedTokens = 1;
    const text = push(B);
    seq.finish('length');
    expect(request.update(text + request.flush(), [B]).output).toEqual({
      prompt: 'the prompt',
      promptTokenIds: [A, B],
      text: 'ab',
      tokenIds: [A, B],
      logprobs: undefined,
      finishReason: 'length',
      numCachedTokens: 1,
    });
  });

  test('holds back what may begin a stop string, and lets it go at the end', () => {
    const { seq, request, push } = setup({ stop: ['bc'] });
    expect([push(A), push(B), request.isStopped]).toEqual(['a', '', false]);
    expect(request.flush()).toBe('b');
    seq.finish('length');
    expect(request.update('', []).output?.text).toBe('ab');
  });

  test('is stopped by a stop string that spans tokens, and its text ends before it', () => {
    const { seq, request, push } = setup({ stop: ['bc'] });
    expect([push(A), push(B), push(C), request.isStopped]).toEqual(['a', '', '', true]);
    expect(request.flush()).toBe('');
    seq.finish('stop');
    expect(request.update('', []).output?.text).toBe('a');
  });

  test('lets half a character go at the end, as a replacement character', () => {
    const { seq, request, push } = setup();
    expect([push(A), push(3 + 0xc3)]).toEqual(['a', '']); // <0xC3> begins a character of two bytes
    expect(request.flush()).toBe('\ufffd');
    seq.finish('length');
    expect(request.update('', []).output?.text).toBe('a\ufffd');
  });

  test('leaves special tokens out of the text', () => {
    const { push } = setup();
    expect([push(A), push(2), push(B)]).toEqual(['a', '', 'b']);
  });

  test('has no text without a tokenizer', () => {
    const { seq, request, push } = setup({}, false);
    expect([push(A), request.flush()]).toEqual(['', '']);
    seq.finish('length');
    expect(request.update('', []).output).toMatchObject({ text: '', tokenIds: [A] });
  });

  test('collects log-probabilities when it asked for them', () => {
    const entry = (tokenId: number) => ({ logprob: -1, top: [{ tokenId, logprob: -1 }] });
    const { seq, request } = setup({ logprobs: 1 });
    for (const tokenId of [A, B]) {
      seq.appendToken(tokenId);
      request.advance(tokenId, entry(tokenId));
    }
    expect(request.update('', [B], entry(B)).logprobs).toEqual([entry(B)]);
    seq.finish('length');
    expect(request.update('', []).output?.logprobs).toEqual([entry(A), entry(B)]);
  });

  test('that asked for log-probabilities and drew nothing has an empty list of them', () => {
    const { seq, request } = setup({ logprobs: 0 });
    seq.finish('abort');
    expect(request.update('', []).output).toMatchObject({ logprobs: [], finishReason: 'abort' });
  });
});
