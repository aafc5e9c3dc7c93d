import { Config, type ConfigOptions } from '#nano/config';
import type { RankMemory } from '#nano/distributed/messages';
import { type BuiltEngine, buildEngine } from '#nano/engine/build-engine';
import type { Prompt } from '#nano/engine/llm-engine';
import type { RequestOutput, RequestUpdate } from '#nano/engine/outputs';
import { startProfile } from '#nano/engine/profile';
import { ConfigError, InvalidRequestError, NanoVllmError } from '#nano/errors';
import { platform } from '#nano/platform';
import type { Opened } from '#nano/platform/platform';
import { type SamplingOptions, SamplingParams } from '#nano/sampling-params';
import { ATTN_BACKENDS, type AttnBackend } from '#nano/tensor/kernels';
import type { ChatMessage, ChatTemplateOptions } from '#nano/utils/chat-template';
import { Progress } from '#nano/utils/progress';
import type { Tokenizer } from '#nano/utils/tokenizer';
import type { Trace } from '#nano/utils/trace';

export interface GenerateOptions {
  /** Show a progress line with prefill and decode speed; default: when standard error is a terminal. */
  readonly progress?: boolean;
  /** Ends the requests early: their outputs have finishReason 'abort'. */
  readonly signal?: AbortSignal;
}

/** What ran where, and how fast. Counters run since the model was loaded. */
export interface Stats {
  /** The one that computes: 'reference', 'cpu' or 'cuda'; and the type of weights and KV cache. */
  readonly backend: string;
  readonly dtype: string;
  /** The attention implementation asked for, and the calls each one really got. */
  readonly attnBackend: AttnBackend;
  readonly attnCalls: Readonly<Record<AttnBackend, number>>;
  /** Tokens a request may have, prompt and output together. */
  readonly maxModelLen: number;
  /** Blocks of the KV cache; and those that no request uses, cached prefixes among them. */
  readonly numKvCacheBlocks: number;
  readonly numFreeBlocks: number;
  /** Requests now that wait for their prompt to be computed, or for blocks; and those that are being answered. */
  readonly numWaiting: number;
  readonly numRunning: number;
  /** How often a running request lost its blocks to an older one, since the model was loaded; so are all counts below. */
  readonly numPreemptions: number;
  /** Steps of the engine, prefill and decode. */
  readonly steps: number;
  /** Tokens of all prompts that were accepted; and those of them that were found in the cache when their request began. */
  readonly promptTokens: number;
  readonly cachedPromptTokens: number;
  /** cachedPromptTokens / promptTokens: how much of the prompts was found in the cache; 0 before the first. */
  readonly cacheHitRate: number;
  /** Tokens that came out, of all requests together. */
  readonly generatedTokens: number;
  /** Tokens a second over the time spent in prefill and in decode steps; 0 before the first. */
  readonly prefillTokensPerSecond: number;
  readonly decodeTokensPerSecond: number;
  /** Weights, KV cache and activation arena; of rank 0. */
  readonly allocatedBytes: number;
  /** What each rank held when the model was loaded. */
  readonly ranks: readonly RankMemory[];
}

/**
 * A loaded model. Any number of `generate`, `stream` and `chat` calls may run at the same time: they share one
 * engine, whose scheduler batches them.
 */
export class LLM {
  private readonly listeners = new Map<number, (update: RequestUpdate) => void>();
  private pumping: Promise<void> | null = null;
  private closed = false;

  private constructor(
    private readonly built: BuiltEngine,
    private readonly opened: Opened,
    private readonly config: Config,
  ) {}

  /**
   * Loads a model from a folder, or by its hub id (downloaded into the Hugging Face cache once).
   * @throws ConfigError, ModelError, HubError or BackendError; each says what to do.
   */
  static async load(model: string, options: ConfigOptions = {}): Promise<LLM> {
    const config = new Config({
      ...options,
      attnBackend: options.attnBackend ?? attnBackendFromEnv(),
      tensorParallelSize: options.tensorParallelSize ?? platform.launchedRanks(),
    });
    const report = (line: string) => platform.showStatus(line);
    let opened: Opened | undefined;
    try {
      const files = await platform.openModel(model, report);
      opened = await platform.open(model, config);
      const { backend, ranks, place } = opened;
      const budget = () => platform.kvCacheBudget(backend, config.gpuMemoryUtilization, place);
      const built = await buildEngine(files, config, backend, budget, report, ranks);
      return new LLM(built, opened, config);
    } catch (error) {
      await opened?.close();
      throw error;
    } finally {
      platform.showStatus(null);
    }
  }

  /** @throws InvalidRequestError when the model folder has no tokenizer.json. */
  get tokenizer(): Tokenizer {
    const { tokenizer } = this.built;
    if (!tokenizer) throw new InvalidRequestError('The model has no tokenizer.json: use token ids, or add that file.');
    return tokenizer;
  }

  /**
   * Completes one prompt or many, each text or token ids.
   * @param params for all prompts, or an array with one entry a prompt. What is not set comes from the model's
   *   generation_config.json.
   * @returns one result a prompt, in order.
   * @throws InvalidRequestError before anything runs when a prompt or parameter is not acceptable.
   */
  async generate(
    prompts: Prompt | readonly Prompt[],
    params: SamplingOptions | readonly SamplingOptions[] = {},
    options: GenerateOptions = {},
  ): Promise<RequestOutput[]> {
    this.assertOpen();
    const list = isSinglePrompt(prompts) ? [prompts] : prompts;
    const paramsOf = this.paramsFor(list, params);
    const { engine } = this.built;
    const progress =
      (options.progress ?? true) ? new Progress(list.length, engine.counters, platform.showStatus) : null;
    const ids: number[] = [];
    const abortAll = () => ids.forEach((id) => engine.abort(id));
    try {
      const results = list.map((prompt, i) => {
        const id = engine.addRequest(prompt, paramsOf[i]);
        ids.push(id);
        return this.finished(id, (update) => progress?.update(update));
      });
      options.signal?.addEventListener('abort', abortAll);
      if (options.signal?.aborted) abortAll();
      this.pump();
      const settled = await Promise.allSettled(results);
      return settled.map((result) => {
        if (result.status === 'rejected') throw result.reason;
        return result.value;
      });
    } catch (error) {
      abortAll();
      this.pump();
      throw error;
    } finally {
      options.signal?.removeEventListener('abort', abortAll);
      progress?.done();
    }
  }

  /**
   * Completes one prompt and yields what each step adds: `for await (const { text } of llm.stream(prompt)) …`. The last update
   * carries the whole `output`. Leaving the loop early aborts the request.
   */
  async *stream(prompt: Prompt, params: SamplingOptions = {}): AsyncGenerator<RequestUpdate, void, void> {
    this.assertOpen();
    const { engine } = this.built;
    const [checked] = this.paramsFor([prompt], params);
    const id = engine.addRequest(prompt, checked);
    const queue: RequestUpdate[] = [];
    let wake = () => {};
    this.listeners.set(id, (update) => {
      queue.push(update);
      wake();
    });
    this.pump();
    try {
      for (;;) {
        const update = queue.shift();
        if (!update) {
          await new Promise<void>((resolve) => (wake = resolve));
          continue;
        }
        if (update.error) throw update.error;
        yield update;
        if (update.output) return;
      }
    } finally {
      this.listeners.delete(id);
      engine.abort(id);
    }
  }

  /** A conversation as token ids, by the model's chat template, ready for `generate` or `stream`. */
  chatPrompt(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): number[] {
    // The template writes all special tokens itself; the tokenizer must not add its own.
    return this.tokenizer.encode(this.tokenizer.applyChatTemplate(messages, options), { addSpecialTokens: false });
  }

  /** One turn of a conversation: the assistant's reply to `messages`. */
  async chat(
    messages: readonly ChatMessage[],
    params: SamplingOptions = {},
    options: GenerateOptions & Pick<ChatTemplateOptions, 'enableThinking'> = {},
  ): Promise<RequestOutput> {
    const { enableThinking } = options;
    const prompt = this.chatPrompt(messages, { enableThinking });
    const [output] = await this.generate(prompt, params, options);
    return output;
  }

  stats(): Stats {
    const { engine, ops, dtype } = this.built;
    const { prefillSeconds, decodeSeconds, prefillTokens, decodeTokens, ...counters } = engine.counters;
    const rate = (tokens: number, seconds: number) => (seconds > 0 ? tokens / seconds : 0);
    return {
      backend: this.opened.backend.description,
      dtype,
      attnBackend: this.config.attnBackend,
      attnCalls: { ...ops.attnCalls },
      maxModelLen: engine.options.maxModelLen,
      numKvCacheBlocks: engine.options.numKvCacheBlocks,
      numFreeBlocks: engine.numFreeBlocks,
      numWaiting: engine.numWaiting,
      numRunning: engine.numRunning,
      numPreemptions: engine.numPreemptions,
      steps: counters.steps,
      promptTokens: counters.promptTokens,
      cachedPromptTokens: counters.cachedPromptTokens,
      cacheHitRate: counters.promptTokens > 0 ? counters.cachedPromptTokens / counters.promptTokens : 0,
      generatedTokens: counters.generatedTokens,
      prefillTokensPerSecond: rate(prefillTokens, prefillSeconds),
      decodeTokensPerSecond: rate(decodeTokens, decodeSeconds),
      allocatedBytes: this.opened.backend.allocatedBytes,
      ranks: this.built.ranks,
    };
  }

  /**
   * Records what the engine does until the function it returns is called, which gives the trace: as JSON a file that ui.perfetto.dev
   * opens. One profile at a time.
   */
  startProfile(): () => Trace {
    this.assertOpen();
    return startProfile(this.built);
  }

  /** Ends all requests (finishReason 'abort') and frees the model's memory. Calling it twice is harmless. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    const { engine } = this.built;
    for (const id of this.listeners.keys()) engine.abort(id);
    this.pump();
    await this.pumping;
    engine.close();
    await this.opened.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Steps the engine until it is idle. One loop serves all callers. */
  private pump(): void {
    if (!this.pumping && this.built.engine.hasUnfinishedRequests) this.pumping = this.runUntilIdle();
  }

  private async runUntilIdle(): Promise<void> {
    const { engine } = this.built;
    try {
      while (engine.hasUnfinishedRequests) {
        for (const update of await engine.step()) this.listeners.get(update.requestId)?.(update);
        await platform.yieldToEventLoop();
      }
    } catch (cause) {
      // Not a request's fault: nobody will be served any more, and every caller must hear of it.
      const error = cause instanceof Error ? cause : new Error(String(cause));
      for (const [requestId, listener] of this.listeners) {
        listener({ requestId, text: '', tokenIds: [], logprobs: undefined, error });
      }
    } finally {
      // In the same turn as the loop's last look: a request added later starts a new loop.
      this.pumping = null;
    }
  }

  private finished(id: number, onUpdate: (update: RequestUpdate) => void): Promise<RequestOutput> {
    return new Promise((resolve, reject) => {
      this.listeners.set(id, (update) => {
        onUpdate(update);
        if (!update.output && !update.error) return;
        this.listeners.delete(id);
        if (update.output) resolve(update.output);
        else reject(update.error);
      });
    });
  }

  private paramsFor(
    prompts: readonly Prompt[],
    params: SamplingOptions | readonly SamplingOptions[],
  ): SamplingParams[] {
    const list = isList(params) ? params : prompts.map(() => params);
    if (list.length !== prompts.length) {
      throw new InvalidRequestError(
        `${prompts.length} prompts came with ${list.length} sampling parameters: give one object for all, or one for each.`,
      );
    }
    return list.map((options) => new SamplingParams({ ...this.built.defaults, ...withoutUndefined(options) }));
  }

  private assertOpen(): void {
    if (this.closed) throw new NanoVllmError('This LLM is closed: load the model again with LLM.load.');
  }
}

/** An empty array is no prompts, not an empty prompt. */
function isSinglePrompt(prompts: Prompt | readonly Prompt[]): prompts is Prompt {
  return typeof prompts === 'string' || typeof prompts[0] === 'number';
}

const isList = (params: SamplingOptions | readonly SamplingOptions[]): params is readonly SamplingOptions[] =>
  Array.isArray(params);

const withoutUndefined = (options: SamplingOptions): SamplingOptions =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));

function attnBackendFromEnv(): AttnBackend | undefined {
  const value = platform.env('NANOVLLM_ATTN_BACKEND');
  if (!value) return undefined;
  if ((ATTN_BACKENDS as readonly string[]).includes(value)) return value as AttnBackend;
  throw new ConfigError(`NANOVLLM_ATTN_BACKEND must be one of ${ATTN_BACKENDS.join(', ')}, got '${value}'.`);
}
