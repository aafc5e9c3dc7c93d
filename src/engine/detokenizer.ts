import { bytesOfToken } from '#nano/utils/byte-level';
import type { DecodeOptions, Tokenizer } from '#nano/utils/tokenizer';

/*
 * Streaming text out of tokens. Decoding each token alone does not work: '😀' has four UTF-8 bytes
 * that may be three tokens, none of them a character. Decoding all tokens again at each step works,
 * and takes quadratic time. So a detokenizer keeps what is not yet certain, and nothing else.
 */

/** Turns the tokens of one sequence into text as they come. */
export interface Detokenizer {
  /** Adds a token; returns the text that is now certain, which may be none. Never half a character. */
  push(tokenId: number): string;
  /** The end: returns what was held back. Bytes that never became a character become U+FFFD. */
  flush(): string;
}

/**
 * For byte-level tokenizers (Qwen, Llama 3) the concatenation of all pushes and the flush is exactly
 * `tokenizer.decode` of all the tokens, whatever they are.
 */
export function createDetokenizer(tokenizer: Tokenizer, options: DecodeOptions = {}): Detokenizer {
  return tokenizer.isByteLevel ? new ByteDetokenizer(tokenizer, options) : new WindowDetokenizer(tokenizer, options);
}

/**
 * For byte-level vocabularies: every token is a fixed run of bytes, and TextDecoder's stream mode keeps
 * the (at most three) bytes of an unfinished character for us.
 */
class ByteDetokenizer implements Detokenizer {
  private readonly utf8 = new TextDecoder('utf-8', { ignoreBOM: true });

  constructor(
    private readonly tokenizer: Tokenizer,
    private readonly options: DecodeOptions,
  ) {}

  push(tokenId: number): string {
    const token = this.tokenizer.token(tokenId);
    if (token === undefined) return '';
    if (!this.tokenizer.isAdded(tokenId)) return this.utf8.decode(bytesOfToken(token), { stream: true });
    if (this.options.skipSpecialTokens && this.tokenizer.isSpecial(tokenId)) return '';
    // An added token is no bytes but a text of its own: a character cannot go on across it.
    return this.utf8.decode() + token;
  }

  flush(): string {
    return this.utf8.decode();
  }
}

// UTF-8 needs up to four bytes for a character, so at most three tokens of one are incomplete.
const MAX_INCOMPLETE = 3;

/**
 * For any other vocabulary, where the text of a token depends on its neighbours (SentencePiece drops the
 * space before the first word): vLLM's technique. It decodes a window of a few tokens: `context`, whose
 * text is out already and which only gives the new ones their surroundings, and `held`, the new ones.
 */
export class WindowDetokenizer implements Detokenizer {
  private context: readonly number[] = [];
  private held: number[] = [];

  constructor(
    private readonly tokenizer: Tokenizer,
    private readonly options: DecodeOptions,
  ) {}

  push(tokenId: number): string {
    if (!this.tokenizer.has(tokenId)) return '';
    if (this.options.skipSpecialTokens && this.tokenizer.isSpecial(tokenId)) return '';
    this.held.push(tokenId);
    const text = this.textOf(this.held);
    // U+FFFD at the end may be a character whose last bytes are still to come; no text at all, a space
    // that shows only before a word.
    const unsure = text === '' || text.endsWith('\ufffd');
    const certain = this.held.length - (unsure ? MAX_INCOMPLETE : 0);
    return certain > 0 ? this.release(certain) : '';
  }

  flush(): string {
    return this.release(this.held.length);
  }

  private release(count: number): string {
    const tokens = this.held.slice(0, count);
    const text = this.textOf(tokens);
    this.held = this.held.slice(count);
    this.context = tokens;
    return text;
  }

  /** What `tokens` add to the text of the context. */
  private textOf(tokens: readonly number[]): string {
    return this.tokenizer.decode([...this.context, ...tokens]).slice(this.tokenizer.decode(this.context).length);
  }
}
