import { InvalidRequestError } from '#nano/errors';
import { checkFields, type Fields } from '#nano/utils/fields';

/** How the next token of a request is chosen, and when the request ends. All optional; vLLM's names. */
export interface SamplingOptions {
  /** Divides the logits: below 1 bolder about the likely tokens, above 1 about the others; 0 takes the likeliest (greedy). */
  temperature?: number;
  /** Draw among the k likeliest tokens; 0: among all. */
  topK?: number;
  /** Draw among the likeliest tokens that together reach this probability; 1: among all. */
  topP?: number;
  /** Drop tokens below this share of the likeliest one's probability; 0: none. */
  minP?: number;
  /** End after so many output tokens. */
  maxTokens?: number;
  /** End when the output contains one of these; the text is cut before it. */
  stop?: string | string[];
  /** End when one of these tokens is drawn. */
  stopTokenIds?: number[];
  /** Go on past the model's end-of-sequence token. */
  ignoreEos?: boolean;
  /** Makes the draws of this request repeatable. */
  seed?: number;
  /** Report log-probabilities: of the drawn token, and of this many likeliest, 0 to 20. */
  logprobs?: number;
}

const MAX = Number.MAX_SAFE_INTEGER;

export const SAMPLING_FIELDS = {
  temperature: {
    kind: 'number',
    min: 0.01,
    max: 100,
    integer: false,
    or: 0,
    doc: 'Divides the logits: below 1 is bolder about the likely tokens, 0 always takes the likeliest (greedy).',
  },
  topK: { kind: 'number', min: 0, max: MAX, integer: true, doc: 'Draw among the k likeliest tokens; 0 = off.' },
  topP: {
    kind: 'number',
    min: Number.MIN_VALUE,
    max: 1,
    integer: false,
    doc: 'Draw among the likeliest tokens that together reach this probability; 1 = off.',
  },
  minP: {
    kind: 'number',
    min: 0,
    max: 1,
    integer: false,
    doc: "Drop tokens below this share of the likeliest token's probability; 0 = off.",
  },
  maxTokens: { kind: 'number', min: 1, max: MAX, integer: true, doc: 'End after this many output tokens.' },
  stop: { kind: 'strings', doc: 'End when the output contains one of these; the text is cut before it.' },
  stopTokenIds: { kind: 'integers', min: 0, doc: 'End when one of these tokens is drawn.' },
  ignoreEos: { kind: 'flag', doc: "Go on past the model's end-of-sequence token (benchmarks)." },
  seed: { kind: 'number', min: 0, max: MAX, integer: true, doc: 'Makes the draws of this request repeatable.' },
  logprobs: {
    kind: 'number',
    min: 0,
    max: 20,
    integer: true,
    doc: 'Report log-probabilities of the drawn token and of this many likeliest ones.',
  },
} as const satisfies Fields;

/** The sampling parameters of one request, complete and checked. */
export class SamplingParams {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly maxTokens: number;
  readonly stop: readonly string[];
  readonly stopTokenIds: readonly number[];
  readonly ignoreEos: boolean;
  /** Undefined: derived from the engine's seed and the request's number. */
  readonly seed: number | undefined;
  /** Undefined: none are computed. 0: only the drawn token's. */
  readonly logprobs: number | undefined;

  /** @throws InvalidRequestError naming the parameter, the value and what is allowed. */
  constructor(options: SamplingOptions = {}) {
    // solution 1.2 (about 12 lines)
    // hint: `stop` may be one string: make it a list, then check the fields (SAMPLING_FIELDS, InvalidRequestError).
    // hint: The defaults filter nothing: temperature 1, topK 0, topP 1, minP 0; maxTokens 64; empty stop lists;
    // hint: ignoreEos false. seed and logprobs stay undefined when they are not given: 0 means something else.
    const stop = typeof options.stop === 'string' ? [options.stop] : options.stop;
    checkFields(SAMPLING_FIELDS, { ...options, stop }, InvalidRequestError);
    this.temperature = options.temperature ?? 1;
    this.topK = options.topK ?? 0;
    this.topP = options.topP ?? 1;
    this.minP = options.minP ?? 0;
    this.maxTokens = options.maxTokens ?? 64;
    this.stop = stop ?? [];
    this.stopTokenIds = options.stopTokenIds ?? [];
    this.ignoreEos = options.ignoreEos ?? false;
    this.seed = options.seed;
    this.logprobs = options.logprobs;
    // end solution
  }

  /** Greedy decoding: no randomness at all. */
  get isGreedy(): boolean {
    return this.temperature === 0;
  }
}
