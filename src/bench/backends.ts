import { BenchEngine } from '#nano/bench/engine';
import type { BenchContext } from '#nano/bench/options';
import type { BenchRow } from '#nano/bench/report';
import { SHAPES } from '#nano/bench/shapes';
import { BackendError, ConfigError } from '#nano/errors';
import { platform } from '#nano/platform';
import type { AttnBackend } from '#nano/tensor/kernels';

/** A way to attend: an implementation, and on GPUs a rung of each ladder. */
interface Variant {
  readonly name: string;
  readonly attnBackend: AttnBackend;
  readonly prefill?: string;
  readonly decode?: string;
}

const EVERYWHERE: readonly Variant[] = [
  { name: 'flash', attnBackend: 'flash' },
  { name: 'sdpa.math', attnBackend: 'sdpa.math' },
];
const ON_GPUS: readonly Variant[] = [
  { name: 'flash: mma, packed', attnBackend: 'flash', prefill: 'mma', decode: 'packed' },
  { name: 'flash: tiled, split', attnBackend: 'flash', prefill: 'tiled', decode: 'split' },
  { name: 'flash: scalar, warp', attnBackend: 'flash', prefill: 'scalar', decode: 'warp' },
];
const DEFAULTS = {
  cuda: { batch: [1, 16, 64], lengths: [512, 1024, 2048, 4096] },
  other: { batch: [1, 4], lengths: [64, 256, 512] },
};
const TABLE = 'Output tokens a second by attention backend: requests × tokens in, as many out';

/**
 * Whole requests through each attention backend, as many tokens out as in, and from which length on `flash` wins. What does not fit the
 * memory is an entry of the table. A run that is not done after `seconds` is judged by what it did until then.
 */
export async function backends(context: BenchContext): Promise<BenchRow[]> {
  const onGpu = nameOf(context) === 'cuda';
  const { batch = DEFAULTS[onGpu ? 'cuda' : 'other'].batch, inputLen = DEFAULTS[onGpu ? 'cuda' : 'other'].lengths } =
    context;
  checkLengths(context, inputLen);
  const rows: BenchRow[] = [];
  for (const requests of batch) {
    for (const length of inputLen) {
      for (const variant of onGpu ? [...EVERYWHERE, ...ON_GPUS] : EVERYWHERE) {
        const what = `${requests} × ${length}`;
        const measured = await measure(context, variant, requests, length);
        rows.push({ table: TABLE, what, column: variant.name, unit: 'tok/s', ...measured });
        context.log(`${what}, ${variant.name}: ${measured.value?.toFixed(0) ?? measured.note} tok/s`);
      }
    }
  }
  return [...batch.map((requests) => crossover(rows, requests, inputLen)), ...rows];
}

const nameOf = ({ options }: BenchContext): string => {
  const backend = platform.createBackend(options.backend ?? 'auto');
  backend.close();
  return backend.name;
};

/** @throws ConfigError naming the length, what it needs, and the model's limit. */
function checkLengths({ shape }: BenchContext, lengths: readonly number[]): void {
  const { max_position_embeddings: limit } = SHAPES[shape];
  const tooLong = lengths.find((length) => 2 * length > limit);
  if (tooLong === undefined) return;
  throw new ConfigError(
    `--input-len ${tooLong}: as many tokens out as in need a maxModelLen of ${2 * tooLong}, and ${shape} has ${limit} positions. ` +
      `Use at most ${limit / 2}.`,
  );
}

/** Tokens a second, or why there are none. */
async function measure(context: BenchContext, variant: Variant, requests: number, length: number) {
  const { seconds = 20, options } = context;
  const { attnBackend, prefill, decode } = variant;
  const own = { NANOVLLM_CUDA_PREFILL: prefill, NANOVLLM_CUDA_DECODE: decode };
  const restore = setEnvironment(own);
  let bench: BenchEngine | undefined;
  try {
    const settings = { maxNumSeqs: requests, maxModelLen: 2 * length, enablePrefixCaching: false };
    bench = await BenchEngine.open({ ...context, log: () => {}, options: { ...options, attnBackend } }, settings);
    const { engine, modelConfig } = bench.built;
    const random = () => Math.floor(Math.random() * modelConfig.vocabSize);
    const add = (tokens: number, maxTokens: number) =>
      engine.addRequest(Array.from({ length: tokens }, random), { temperature: 0, maxTokens, ignoreEos: true });
    add(8, 2);
    while (bench.isBusy) await bench.step(); // what is loaded on demand is loaded now
    const before = engine.counters.generatedTokens;
    for (let i = 0; i < requests; i++) add(length, length);
    const started = performance.now();
    const elapsed = () => (performance.now() - started) / 1000;
    while (bench.isBusy && elapsed() < seconds) await bench.step();
    const value = (engine.counters.generatedTokens - before) / elapsed();
    return bench.isBusy
      ? { value, note: `what came in the first ${seconds} s, the prefill's time included` }
      : { value };
  } catch (error) {
    if (!isOutOfMemory(error)) throw error;
    return { value: null, note: 'OOM' };
  } finally {
    await bench?.close();
    restore();
  }
}

/** @returns what puts everything back. */
function setEnvironment(values: Readonly<Record<string, string | undefined>>): () => void {
  const before = Object.keys(values).map((name) => [name, process.env[name]] as const);
  const set = (entries: Iterable<readonly [string, string | undefined]>) => {
    for (const [name, value] of entries) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  };
  set(Object.entries(values));
  return () => set(before);
}

export const isOutOfMemory = (error: unknown): boolean =>
  (error instanceof BackendError && /out of (gpu )?memory|could not get \d+ bytes/i.test(error.message)) ||
  (error instanceof ConfigError && /KV-cache blocks/.test(error.message));

/** The shortest of the lengths from which on `flash` is never slower; null when it is at the longest. */
function crossover(rows: readonly BenchRow[], requests: number, lengths: readonly number[]): BenchRow {
  const rate = (length: number, column: string) =>
    rows.find((row) => row.what === `${requests} × ${length}` && row.column === column)?.value ?? 0;
  let from: number | null = null;
  for (const length of [...lengths].sort((a, b) => b - a)) {
    if (rate(length, 'flash') < rate(length, 'sdpa.math')) break;
    from = length;
  }
  return { what: `${requests} at once: flash is faster from`, value: from, unit: 'tokens' };
}
