import { SamplingParams } from '#nano/sampling-params';

/**
 * A request's life: it waits for its prompt to be computed, runs one token a step, and finishes.
 * Preemption sends a running sequence back to waiting.
 */
export type SequenceStatus = 'waiting' | 'running' | 'finished';

/** `stop`: the model or a stop condition ended it; `length`: maxTokens or maxModelLen; `abort`: the caller. */
export type FinishReason = 'stop' | 'length' | 'abort';

/** Stands in the token list for a token that is drawn but not yet known. No vocabulary has it. */
export const PLACEHOLDER = -1;

let nextSeqId = 0;

/** One request inside the engine: its tokens, where it stands, and which cache blocks hold its keys and values. */
export class Sequence {
  /** Unique in the process. */
  readonly seqId = nextSeqId++;
  status: SequenceStatus = 'waiting';
  /** Set when the sequence is finished. */
  finishReason: FinishReason | undefined;
  /** Prompt and output, in one list. */
  readonly tokenIds: number[];
  readonly numPromptTokens: number;
  /**
   * Tokens at the end of the list whose step has been launched and whose number the host does not know yet. They
   * count as tokens, so that lengths, positions and blocks are those of the next step, which may be launched before
   * they are known.
   */
  numPlaceholders = 0;
  /** Tokens whose keys and values are in the cache (or on their way): computed, or found by prefix caching. */
  numCachedTokens = 0;
  /** Tokens the current step computes. */
  numScheduledTokens = 0;
  /**
   * Logical block i of this sequence (tokens i·blockSize …) lies in physical block `blockTable[i]`,
   * as a page table maps a process's pages to memory. It is why a sequence can grow without
   * moving, and why two sequences can share the blocks of a common prefix.
   */
  blockTable: number[] = [];
  /**
   * Where the device keeps the last token drawn for this sequence, for its next step to read; -1 when it has no
   * blocks.
   */
  tokenSlot = -1;

  constructor(
    promptTokenIds: readonly number[],
    readonly samplingParams: SamplingParams = new SamplingParams(),
    /** Tokens per block: the engine's kvCacheBlockSize. */
    readonly blockSize = 16,
    /** The request's number in its engine: seeds its draws when it brings no seed of its own. */
    readonly requestIndex = 0,
  ) {
    this.tokenIds = [...promptTokenIds];
    this.numPromptTokens = promptTokenIds.length;
  }

  /** Prompt and output, placeholders included. */
  get numTokens(): number {
    return this.tokenIds.length;
  }

  /** All tokens but those not known yet. */
  get numKnownTokens(): number {
    return this.numTokens - this.numPlaceholders;
  }

  /** Placeholders included. */
  get numOutputTokens(): number {
    return this.numTokens - this.numPromptTokens;
  }

  /** A copy, without placeholders. */
  get outputTokenIds(): number[] {
    return this.tokenIds.slice(this.numPromptTokens, this.numKnownTokens);
  }

  /** The last that is known. */
  get lastToken(): number {
    return this.tokenIds[this.numKnownTokens - 1];
  }

  get isFinished(): boolean {
    return this.status === 'finished';
  }

  /** Blocks the tokens fill, the last one perhaps in part. */
  get numBlocks(): number {
    // solution 1.3 (1 line)
    // hint: Round up: 17 tokens in blocks of 16 need 2 blocks, and so do 32; no tokens need none.
    return Math.ceil(this.numTokens / this.blockSize);
    // end solution
  }

  /** Tokens in the last block: 1 … blockSize for a sequence that has any. */
  get lastBlockNumTokens(): number {
    // solution 1.3 (1 line)
    // hint: All tokens, less those in the blocks before the last. Check it at exactly one full block.
    return this.numTokens - (this.numBlocks - 1) * this.blockSize;
    // end solution
  }

  /** The tokens of logical block `i`; fewer than blockSize in the last. */
  block(i: number): number[] {
    // solution 1.3 (about 4 lines)
    // hint: Blocks 0 … numBlocks - 1 exist; any other i, fractions too, is a RangeError that names i and the limit.
    // hint: `slice` stops by itself at the end of the list.
    if (!Number.isInteger(i) || i < 0 || i >= this.numBlocks) {
      throw new RangeError(`Block ${i} does not exist: sequence ${this.seqId} has blocks 0 to ${this.numBlocks - 1}.`);
    }
    return this.tokenIds.slice(i * this.blockSize, (i + 1) * this.blockSize);
    // end solution
  }

  /** Adds a token the model produced. */
  appendToken(tokenId: number): void {
    // solution 1.4 (about 4 lines)
    // hint: A finished sequence takes no more tokens: throw an Error that names the sequence and the token.
    if (this.isFinished) throw new Error(`Sequence ${this.seqId} is finished and cannot take token ${tokenId}.`);
    this.tokenIds.push(tokenId);
    // end solution
  }

  /** A step that draws this sequence's next token has been launched. */
  appendPlaceholder(): void {
    this.appendToken(PLACEHOLDER);
    this.numPlaceholders++;
  }

  /** The token is known. Results come in the order of the launches, so it is the first that was missing. */
  fillPlaceholder(tokenId: number): void {
    if (this.numPlaceholders === 0) throw new Error(`Sequence ${this.seqId} expects no token, but ${tokenId} came.`);
    this.tokenIds[this.numKnownTokens] = tokenId;
    this.numPlaceholders--;
  }

  /** waiting → running: the whole prompt is in the cache (or will be after this step). */
  start(): void {
    this.move('waiting', 'running');
  }

  /**
   * running → waiting: its blocks were taken away. All tokens stay, so the prompt *and* the output so
   * far are computed again when it comes back (preemption by recompute).
   */
  preempt(): void {
    // solution 1.4 (about 4 lines)
    // hint: `move` it back to waiting first, so that a sequence that is not running stays as it is.
    // hint: Then forget the cache: no cached tokens, no scheduled tokens, an empty block table. The tokens stay.
    this.move('running', 'waiting');
    this.numCachedTokens = 0;
    this.numScheduledTokens = 0;
    this.blockTable = [];
    // end solution
  }

  /** running or waiting → finished. Tokens that are not known yet are not wanted any more. */
  finish(reason: FinishReason): void {
    this.move(this.status === 'waiting' ? 'waiting' : 'running', 'finished');
    this.finishReason = reason;
    this.tokenIds.length = this.numKnownTokens;
    this.numPlaceholders = 0;
  }

  private move(from: SequenceStatus, to: SequenceStatus): void {
    // solution 1.4 (about 4 lines)
    // hint: When the status is not `from`, throw an Error naming the sequence, its status and where it should go.
    if (this.status !== from) {
      throw new Error(`Sequence ${this.seqId} is ${this.status} and cannot go from ${from} to ${to}.`);
    }
    this.status = to;
    // end solution
  }
}
