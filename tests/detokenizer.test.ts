import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createDetokenizer, type Detokenizer, WindowDetokenizer } from '#nano/engine/detokenizer';
import type { DecodeOptions, Tokenizer } from '#nano/utils/tokenizer';
import { qwen3Tokenizer, sentencePieceTokenizer } from './helpers/tokenizers';

const tokenizer = qwen3Tokenizer();

function pieces(detokenizer: Detokenizer, ids: readonly number[]): string[] {
  return [...ids.map((id) => detokenizer.push(id)), detokenizer.flush()];
}

/** Tokens of text with characters of every length; byte tokens; special ones; ids of the padding. */
const tokens = fc
  .array(
    fc.oneof(
      fc.string({ unit: 'grapheme' }).map((text) => tokenizer.encode(text)),
      fc
        .constantFrom('😀', '👩‍👩‍👧', '你好世界', '𝔘', '한국어', 'é', '<think>', '<|im_end|>')
        .map((text) => tokenizer.encode(text)),
      fc.nat(tokenizer.vocabSize + 300).map((id) => [id]),
      fc.nat(255).map((id) => [id]),
      fc.integer({ min: 151643, max: 151668 }).map((id) => [id]),
    ),
    { maxLength: 20 },
  )
  .map((parts) => parts.flat());

describe('byte-level tokenizers', () => {
  test.each<DecodeOptions>([{ skipSpecialTokens: false }, { skipSpecialTokens: true }])(
    'all pieces together are the decoded text: %j',
    (options) => {
      fc.assert(
        fc.property(tokens, (ids) => {
          expect(pieces(createDetokenizer(tokenizer, options), ids).join('')).toBe(tokenizer.decode(ids, options));
        }),
        { numRuns: 1000 },
      );
    },
  );

  test('never half a character: pieces of valid text are valid text', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        const out = pieces(createDetokenizer(tokenizer), tokenizer.encode(text));
        expect(out.join('')).toBe(text.normalize('NFC'));
        for (const piece of out) expect(piece).not.toMatch(/\p{Surrogate}/u);
        if (!text.includes('\ufffd')) expect(out.join('')).not.toContain('\ufffd');
      }),
      { numRuns: 500 },
    );
  });

  test('an emoji of several tokens comes out whole, with its last token', () => {
    const ids = tokenizer.encode('🫠');
    expect(ids.length).toBeGreaterThan(1);
    expect(pieces(createDetokenizer(tokenizer), ids)).toEqual([...ids.slice(1).map(() => ''), '🫠', '']);
    expect(pieces(createDetokenizer(tokenizer), ids.slice(0, -1)).at(-1)).toBe('\ufffd');
  });

  test('a byte order mark is text like any other', () => {
    const text = '\ufeffa\ufeff';
    expect(pieces(createDetokenizer(tokenizer), tokenizer.encode(text)).join('')).toBe(text);
  });
});

describe('other tokenizers', () => {
  const llama = sentencePieceTokenizer();
  const ascii = fc.string({ unit: fc.constantFrom('a', 'b', 'c', ' ', '😀', 'é') });

  test('all pieces together are the decoded text', () => {
    fc.assert(
      fc.property(ascii, (text) => {
        const ids = llama.encode(text);
        const out = pieces(createDetokenizer(llama, { skipSpecialTokens: true }), ids);
        expect(out.join('')).toBe(llama.decode(ids, { skipSpecialTokens: true }));
        for (const piece of out) expect(piece).not.toMatch(/\p{Surrogate}/u);
      }),
    );
  });

  test('the window technique is right for byte-level tokenizers too, on valid text', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (text) => {
        const ids = tokenizer.encode(text);
        expect(pieces(new WindowDetokenizer(tokenizer, {}), ids).join('')).toBe(tokenizer.decode(ids));
      }),
    );
  });

  test('what it holds stays small, whatever comes', () => {
    const garbage = new WindowDetokenizer(llama, {});
    let out = 0;
    for (let i = 0; i < 1000; i++) out += garbage.push(3 + 0x80).length;
    expect(out).toBeGreaterThan(990);
  });

  test('half a character is given up as soon as something else follows', () => {
    const a = llama.encode('a').at(-1) as number;
    expect(pieces(new WindowDetokenizer(llama, {}), [3 + 0xc3, a])).toEqual(['', '\ufffda', '']);
  });

  test('ids of the padding are no text, and special tokens only where they are wanted', () => {
    const [a, b] = ['a', 'b'].map((text) => llama.encode(text, { addSpecialTokens: false }).at(-1) as number);
    const ids = [a, 99_999, 2, b];
    expect(pieces(new WindowDetokenizer(llama, { skipSpecialTokens: true }), ids)).toEqual(['a', '', '', 'b', '']);
    expect(pieces(new WindowDetokenizer(llama, {}), ids).join('')).toBe('a</s>b');
  });

  test.each([1, 2, 3])('a space between words survives %i tokens without text before it', (count) => {
    // As SentencePiece does it: the space before the first word is dropped. So a word must be seen behind another.
    const texts: Record<number, string> = { 1: 'a', 2: '', 3: ' b' };
    const decode = (ids: readonly number[]) =>
      ids
        .map((id) => texts[id])
        .join('')
        .replace(/^ /, '');
    const tokenizer = { has: () => true, isSpecial: () => false, decode } as unknown as Tokenizer;
    const empty = Array<number>(count).fill(2);
    expect(pieces(new WindowDetokenizer(tokenizer, {}), [1, ...empty, 3])).toEqual([
      'a',
      ...empty.map(() => ''),
      ' b',
      '',
    ]);
  });
});
