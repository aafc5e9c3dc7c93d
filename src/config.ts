import { ConfigError } from '#nano/errors';
import { ATTN_BACKENDS, type AttnBackend } from '#nano/tensor/kernels';
import { checkFields, type Fields } from '#nano/utils/fields';

export const BACKENDS = ['auto', 'reference', 'cpu', 'cuda'] as const;
export const DTYPES = ['auto', 'float32', 'bfloat16', 'float16'] as const;
export const LOAD_FORMATS = ['auto', 'safetensors', 'dummy'] as const;

/** Tokens of a request when maxModelLen is not given, for models that could do more. */
export const DEFAULT_MAX_MODEL_LEN = 4096;

/** Engine settings, all optional. Names are vLLM's, in camelCase. */
export interface ConfigOptions {
  /** Where to compute; 'auto', the default, takes the fastest that the machine has. */
  backend?: (typeof BACKENDS)[number];
  /** Of weights and KV cache; 'auto', the default, is the checkpoint's. */
  dtype?: (typeof DTYPES)[number];
  /** 'flash' (default), or 'sdpa.math', the slow one that is easy to read. */
  attnBackend?: AttnBackend;
  /** Most tokens of one request, prompt and output together; default: what the model can do, at most 4096. */
  maxModelLen?: number;
  /** Most requests that run at the same time; default 128, or maxNumBatchedTokens where that is less. */
  maxNumSeqs?: number;
  /** Most tokens that a step computes; default 2048. Longer prompts are cut into chunks. */
  maxNumBatchedTokens?: number;
  /** Tokens a block of the KV cache holds; default 16. */
  kvCacheBlockSize?: number;
  /** Blocks of the KV cache; -1, the default, sizes it for the machine. */
  numKvCacheBlocks?: number;
  /** Share of a GPU's memory that weights and KV cache may take together, 0.05 to 1; default 0.9. */
  gpuMemoryUtilization?: number;
  /** Use again what is cached of prompts that begin alike; default true. */
  enablePrefixCaching?: boolean;
  /** Run operations one by one, without captured graphs; default false. */
  enforceEager?: boolean;
  /** On a GPU: the same bits for a request whatever runs beside it, at some cost in speed; default false. */
  batchInvariant?: boolean;
  /** Ranks that share the model: a GPU each, on a CPU a thread; default 1. */
  tensorParallelSize?: number;
  /** From which requests without a seed of their own get theirs; default 0. */
  seed?: number;
  /** 'dummy' fills the weights with random numbers, for benchmarks; default 'auto'. */
  loadFormat?: (typeof LOAD_FORMATS)[number];
}

const MAX = Number.MAX_SAFE_INTEGER;
const count = (doc: string, min = 1, max = MAX) => ({ kind: 'number', min, max, integer: true, doc }) as const;

export const CONFIG_FIELDS = {
  backend: { kind: 'choice', choices: BACKENDS, doc: 'Where to compute; auto takes the fastest there is.' },
  dtype: { kind: 'choice', choices: DTYPES, doc: "Weights and KV cache; auto takes the checkpoint's." },
  attnBackend: { kind: 'choice', choices: ATTN_BACKENDS, doc: 'Attention implementation (env NANOVLLM_ATTN_BACKEND).' },
  maxModelLen: count('Most tokens of one request, prompt and output together.'),
  maxNumSeqs: count('Most requests running at the same time.', 1, 65536),
  maxNumBatchedTokens: count('Most tokens one step computes; longer prompts are prefilled in chunks.', 1, 1 << 20),
  kvCacheBlockSize: count('Tokens one KV-cache block holds.', 1, 4096),
  numKvCacheBlocks: { ...count('Blocks in the KV cache; -1 sizes it for the machine.'), or: -1 },
  gpuMemoryUtilization: {
    kind: 'number',
    min: 0.05,
    max: 1,
    integer: false,
    doc: "Share of a GPU's memory the engine may use, weights and KV cache together.",
  },
  enablePrefixCaching: { kind: 'flag', doc: 'Reuse the KV cache of prompts that begin alike.' },
  enforceEager: { kind: 'flag', doc: 'Never replay captured graphs; run every operation one by one.' },
  batchInvariant: { kind: 'flag', doc: 'On a GPU: the same bits for a request in any batch, at some cost in speed.' },
  tensorParallelSize: count('Ranks the model is split over: one GPU each; on a CPU, threads.', 1, 1024),
  seed: count('Seeds the requests that bring no seed of their own.', 0),
  loadFormat: {
    kind: 'choice',
    choices: LOAD_FORMATS,
    doc: 'dummy fills the weights with random numbers (benchmarks).',
  },
} as const satisfies Fields;

/**
 * The engine's settings, complete and checked: an object that exists is valid. What depends on the
 * model (dtype 'auto', a maxModelLen not given) is settled when the model is loaded.
 */
export class Config {
  readonly backend: (typeof BACKENDS)[number];
  readonly dtype: (typeof DTYPES)[number];
  readonly attnBackend: AttnBackend;
  /** Undefined: what the model can do, at most {@link DEFAULT_MAX_MODEL_LEN}. */
  readonly maxModelLen: number | undefined;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly kvCacheBlockSize: number;
  /** -1: sized when the model is loaded. */
  readonly numKvCacheBlocks: number;
  /** 0.9 by default: the rest is left to the driver, to graphs, and to others. */
  readonly gpuMemoryUtilization: number;
  readonly enablePrefixCaching: boolean;
  readonly enforceEager: boolean;
  readonly batchInvariant: boolean;
  readonly tensorParallelSize: number;
  readonly seed: number;
  readonly loadFormat: (typeof LOAD_FORMATS)[number];

  /** @throws ConfigError naming the option, the value and what is allowed. */
  constructor(options: ConfigOptions = {}) {
    // solution 1.1 (about 30 lines)
    // hint: Check each field (`checkFields` with CONFIG_FIELDS and ConfigError), then give every option its default;
    // hint: the table of defaults is in the lesson. Then check what no field can know alone:
    // hint: - a decode step computes one token for each running request: maxNumSeqs <= maxNumBatchedTokens;
    // hint: - if maxModelLen is given and numKvCacheBlocks is not -1, that many blocks of kvCacheBlockSize tokens must hold it.
    // hint: Each is a ConfigError that names both options and both numbers.
    checkFields(CONFIG_FIELDS, options, ConfigError);
    this.backend = options.backend ?? 'auto';
    this.dtype = options.dtype ?? 'auto';
    this.attnBackend = options.attnBackend ?? 'flash';
    this.maxModelLen = options.maxModelLen;
    this.maxNumBatchedTokens = options.maxNumBatchedTokens ?? 2048;
    this.maxNumSeqs = options.maxNumSeqs ?? Math.min(128, this.maxNumBatchedTokens);
    this.kvCacheBlockSize = options.kvCacheBlockSize ?? 16;
    this.numKvCacheBlocks = options.numKvCacheBlocks ?? -1;
    this.gpuMemoryUtilization = options.gpuMemoryUtilization ?? 0.9;
    this.enablePrefixCaching = options.enablePrefixCaching ?? true;
    this.enforceEager = options.enforceEager ?? false;
    this.batchInvariant = options.batchInvariant ?? false;
    this.tensorParallelSize = options.tensorParallelSize ?? 1;
    this.seed = options.seed ?? 0;
    this.loadFormat = options.loadFormat ?? 'auto';
    if (this.maxNumSeqs > this.maxNumBatchedTokens) {
      throw new ConfigError(
        `maxNumSeqs ${this.maxNumSeqs} exceeds maxNumBatchedTokens ${this.maxNumBatchedTokens}: a decode step computes one ` +
          'token for each running request. Raise maxNumBatchedTokens or lower maxNumSeqs.',
      );
    }
    const capacity = this.numKvCacheBlocks * this.kvCacheBlockSize;
    if (this.numKvCacheBlocks !== -1 && this.maxModelLen !== undefined && this.maxModelLen > capacity) {
      throw new ConfigError(
        `maxModelLen ${this.maxModelLen} does not fit the KV cache: numKvCacheBlocks ${this.numKvCacheBlocks} × ` +
          `kvCacheBlockSize ${this.kvCacheBlockSize} = ${capacity} tokens. Raise numKvCacheBlocks or lower maxModelLen.`,
      );
    }
    // end solution
  }
}
