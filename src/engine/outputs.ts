import type { TokenLogprobs } from '#nano/engine/logprobs';
import type { FinishReason } from '#nano/engine/sequence';

/** A finished request. */
export interface RequestOutput {
  /** The prompt as it was given, when it was text. */
  readonly prompt: string | undefined;
  /** The prompt's tokens, as the model got them. */
  readonly promptTokenIds: readonly number[];
  /** The generated text, without special tokens and without the stop string that ended it. */
  readonly text: string;
  /** The generated tokens, the ending one included. */
  readonly tokenIds: readonly number[];
  /** One entry a generated token, when `logprobs` was set. */
  readonly logprobs: readonly TokenLogprobs[] | undefined;
  /** Why it ended: 'stop', 'length' or 'abort'. */
  readonly finishReason: FinishReason;
  /** Prompt tokens whose keys and values were found in the cache. */
  readonly numCachedTokens: number;
}

/** What one step added to one request. */
export interface RequestUpdate {
  /** What `addRequest` returned. */
  readonly requestId: number;
  /** New text that is certain: whole characters, and not the beginning of a stop string. May be empty. */
  readonly text: string;
  /** New tokens, of which some text may still be held back. */
  readonly tokenIds: readonly number[];
  /** One entry a new token, when `logprobs` was set. */
  readonly logprobs: readonly TokenLogprobs[] | undefined;
  /** Set when the request is finished. */
  readonly output?: RequestOutput;
  /** Set when the request failed; no output follows. */
  readonly error?: Error;
}
