import { BlockManager } from '#nano/engine/block-manager';
import type { ModelRunner } from '#nano/engine/model-runner';
import type { RequestUpdate } from '#nano/engine/outputs';
import { Request } from '#nano/engine/request';
import { type Batch, Scheduler } from '#nano/engine/scheduler';
import { Sequence } from '#nano/engine/sequence';
import { InvalidRequestError } from '#nano/errors';
import { type SamplingOptions, SamplingParams } from '#nano/sampling-params';
import type { TokenHash } from '#nano/utils/hash';
import type { Tokenizer } from '#nano/utils/tokenizer';

export interface EngineOptions {
  readonly maxModelLen: number;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly kvCacheBlockSize: number;
  readonly numKvCacheBlocks: number;
  readonly enablePrefixCaching: boolean;
  readonly vocabSize: number;
  readonly eosTokenIds: readonly number[];
  readonly tokenizer?: Tokenizer;
  /** For tests: replaces the hash of prefix caching. */
  readonly hash?: TokenHash;
}

/** Text, or token ids. */
export type Prompt = string | readonly number[];

/** Counts since the engine was made. */
export interface EngineCounters {
  steps: number;
  promptTokens: number;
  cachedPromptTokens: number;
  generatedTokens: number;
  /** Seconds spent in prefill and decode steps. */
  prefillSeconds: number;
  decodeSeconds: number;
  /** Tokens computed in prefill steps, and drawn in decode steps. */
  prefillTokens: number;
  decodeTokens: number;
}

/** Takes requests in, and moves all of them forward by one step at a time. */
export class LLMEngine {
  private readonly requests = new Map<Sequence, Request>();
  private readonly blockManager: BlockManager;
  private readonly scheduler: Scheduler;
  private nextRequestId = 0;
  private finishedBetweenSteps: RequestUpdate[] = [];
  readonly counters: EngineCounters = {
    steps: 0,
    promptTokens: 0,
    cachedPromptTokens: 0,
    generatedTokens: 0,
    prefillSeconds: 0,
    decodeSeconds: 0,
    prefillTokens: 0,
    decodeTokens: 0,
  };

  constructor(
    private readonly runner: Pick<ModelRunner, 'run'>,
    readonly options: EngineOptions,
  ) {
    const { numKvCacheBlocks, kvCacheBlockSize, enablePrefixCaching, hash } = options;
    this.blockManager = new BlockManager(numKvCacheBlocks, kvCacheBlockSize, enablePrefixCaching, hash);
    this.scheduler = new Scheduler(this.blockManager, options, new Set(options.eosTokenIds));
  }

  get hasUnfinishedRequests(): boolean {
    return !this.scheduler.isFinished || this.finishedBetweenSteps.length > 0;
  }

  get numPreemptions(): number {
    return this.scheduler.numPreemptions;
  }

  get numFreeBlocks(): number {
    return this.blockManager.numFreeBlocks;
  }

  /**
   * Queues a request.
   * @returns its id, which updates carry.
   * @throws InvalidRequestError when the prompt or a parameter cannot be served; the engine is unchanged.
   */
  addRequest(prompt: Prompt, params: SamplingParams | SamplingOptions = {}): number {
    const samplingParams = params instanceof SamplingParams ? params : new SamplingParams(params);
    const tokenIds = this.promptTokens(prompt);
    this.checkRequest(tokenIds, samplingParams);
    const id = this.nextRequestId++;
    const seq = new Sequence(tokenIds, samplingParams, this.options.kvCacheBlockSize, id);
    const text = typeof prompt === 'string' ? prompt : undefined;
    this.requests.set(seq, new Request(id, seq, text, this.options.tokenizer));
    this.counters.promptTokens += tokenIds.length;
    this.scheduler.add(seq);
    return id;
  }

  /** Ends a request early. Its update, with what it has so far, comes with the next step. Unknown ids are ignored. */
  abort(requestId: number): void {
    for (const [seq, request] of this.requests) {
      if (request.id !== requestId) continue;
      this.scheduler.finish(seq, 'abort');
      this.requests.delete(seq);
      this.finishedBetweenSteps.push(request.update(request.flush(), []));
      return;
    }
  }

  /** Schedules, runs and evaluates one batch. */
  async step(): Promise<RequestUpdate[]> {
    const updates = this.finishedBetweenSteps;
    this.finishedBetweenSteps = [];
    const batch = this.scheduler.schedule();
    if (batch.seqs.length === 0) return updates;
    this.noteCachedPrompts(batch);
    const started = performance.now();
    try {
      const { tokenIds, logprobs } = await this.runner.run(batch);
      this.count(batch, (performance.now() - started) / 1000);
      const advanced = new Set(this.scheduler.postprocess(batch, tokenIds));
      batch.seqs.forEach((seq, i) => {
        const request = this.requests.get(seq);
        if (request && advanced.has(seq)) updates.push(this.advance(request, logprobs.get(i)));
      });
    } catch (error) {
      updates.push(...this.fail(batch, error));
    }
    return updates;
  }

  /** @throws Error when the block manager's books are not in order. For tests. */
  checkIntegrity(): void {
    this.blockManager.checkIntegrity(this.requests.keys());
  }

  private advance(request: Request, logprobs: Parameters<Request['advance']>[1]): RequestUpdate {
    const { seq } = request;
    const tokenId = seq.lastToken;
    this.counters.generatedTokens++;
    let text = request.advance(tokenId, logprobs);
    if (seq.isFinished && !request.isStopped) text += request.flush();
    // A stop string also wins over a length reached by the same token.
    if (request.isStopped) {
      this.scheduler.finish(seq, 'stop');
      seq.finishReason = 'stop';
    }
    if (seq.isFinished) this.requests.delete(seq);
    return request.update(text, [tokenId], logprobs);
  }

  /** A failed step ends the requests that were in it, and only those. */
  private fail(batch: Batch, cause: unknown): RequestUpdate[] {
    const error = cause instanceof Error ? cause : new Error(String(cause));
    return batch.seqs.flatMap((seq) => {
      const request = this.requests.get(seq);
      if (!request) return [];
      this.scheduler.finish(seq, 'abort');
      this.requests.delete(seq);
      return [{ requestId: request.id, text: '', tokenIds: [], logprobs: undefined, error }];
    });
  }

  private promptTokens(prompt: Prompt): readonly number[] {
    if (typeof prompt !== 'string') return prompt;
    if (!this.options.tokenizer) {
      throw new InvalidRequestError('The model has no tokenizer.json: give the prompt as token ids, or add that file.');
    }
    return this.options.tokenizer.encode(prompt);
  }

  private checkRequest(tokenIds: readonly number[], params: SamplingParams): void {
    const { maxModelLen, vocabSize, tokenizer } = this.options;
    if (tokenIds.length === 0) {
      throw new InvalidRequestError('The prompt is empty: give at least one token.');
    }
    if (tokenIds.length >= maxModelLen) {
      throw new InvalidRequestError(
        `The prompt has ${tokenIds.length} tokens; with maxModelLen ${maxModelLen} at most ${maxModelLen - 1} fit, ` +
          'which leaves room for one token of output. Shorten it or raise maxModelLen.',
      );
    }
    const check = (what: string, ids: readonly number[]) => {
      const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
      if (bad !== undefined) {
        throw new InvalidRequestError(
          `${what} ${bad} is not in the vocabulary: ids are whole numbers from 0 to ${vocabSize - 1}.`,
        );
      }
    };
    check('Token id', tokenIds);
    check('stopTokenIds entry', params.stopTokenIds);
    if (params.stop.length > 0 && !tokenizer) {
      throw new InvalidRequestError('Stop strings need a tokenizer, and the model has none: use stopTokenIds.');
    }
  }

  private noteCachedPrompts(batch: Batch): void {
    if (!batch.isPrefill) return;
    for (const seq of batch.seqs) {
      const request = this.requests.get(seq);
      if (!request || seq.numOutputTokens > 0 || request.hasStarted) continue;
      request.hasStarted = true;
      request.numCachedTokens = seq.numCachedTokens;
      this.counters.cachedPromptTokens += seq.numCachedTokens;
    }
  }

  private count(batch: Batch, seconds: number): void {
    const { counters } = this;
    counters.steps++;
    if (batch.isPrefill) {
      counters.prefillSeconds += seconds;
      counters.prefillTokens += batch.seqs.reduce((sum, seq) => sum + seq.numScheduledTokens, 0);
    } else {
      counters.decodeSeconds += seconds;
      counters.decodeTokens += batch.seqs.length;
    }
  }
}
