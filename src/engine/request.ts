import { createDetokenizer, type Detokenizer } from '#nano/engine/detokenizer';
import type { TokenLogprobs } from '#nano/engine/logprobs';
import type { RequestOutput, RequestUpdate } from '#nano/engine/outputs';
import type { Sequence } from '#nano/engine/sequence';
import { StopChecker } from '#nano/engine/stop-checker';
import type { Tokenizer } from '#nano/utils/tokenizer';

/** A request as its caller sees it: the sequence, and the text and log-probabilities that came of it. */
export class Request {
  private text = '';
  private logprobs: TokenLogprobs[] | undefined;
  private readonly detokenizer: Detokenizer | undefined;
  private readonly stopChecker: StopChecker;
  /** Prompt tokens found in the cache when the request first ran. */
  numCachedTokens = 0;
  hasStarted = false;

  constructor(
    readonly id: number,
    readonly seq: Sequence,
    private readonly prompt: string | undefined,
    tokenizer: Tokenizer | undefined,
  ) {
    this.detokenizer = tokenizer && createDetokenizer(tokenizer, { skipSpecialTokens: true });
    this.stopChecker = new StopChecker(seq.samplingParams.stop);
    if (seq.samplingParams.logprobs !== undefined) this.logprobs = [];
  }

  /**
   * Takes in the token just appended to the sequence.
   * @returns the text it makes certain.
   */
  advance(tokenId: number, logprobs: TokenLogprobs | undefined): string {
    if (logprobs) this.logprobs?.push(logprobs);
    return this.append(this.detokenizer?.push(tokenId) ?? '');
  }

  /** Whether a stop string has appeared. */
  get isStopped(): boolean {
    return this.stopChecker.matched !== undefined;
  }

  /** The text still held back, when nothing more will come. */
  flush(): string {
    const last = this.append(this.detokenizer?.flush() ?? '');
    const held = this.stopChecker.flush();
    this.text += held;
    return last + held;
  }

  private append(text: string): string {
    const certain = this.stopChecker.push(text);
    this.text += certain;
    return certain;
  }

  update(text: string, tokenIds: readonly number[], logprobs?: TokenLogprobs): RequestUpdate {
    const output = this.seq.isFinished ? this.output() : undefined;
    return { requestId: this.id, text, tokenIds, logprobs: logprobs && [logprobs], output };
  }

  private output(): RequestOutput {
    const { seq } = this;
    return {
      prompt: this.prompt,
      promptTokenIds: seq.tokenIds.slice(0, seq.numPromptTokens),
      text: this.text,
      tokenIds: seq.outputTokenIds,
      logprobs: this.logprobs,
      finishReason: seq.finishReason ?? 'abort',
      numCachedTokens: this.numCachedTokens,
    };
  }
}
