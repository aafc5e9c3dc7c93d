import type { Limits } from '#nano/bench/limits';
import { SHAPES, type ShapeName } from '#nano/bench/shapes';
import { fieldLines, flagLine, parseFlags, readFields } from '#nano/cli/flags';
import { CONFIG_FIELDS, type ConfigOptions } from '#nano/config';
import { ConfigError } from '#nano/errors';
import { checkFields, type Fields } from '#nano/utils/fields';

/** What a suite is given. */
export interface BenchContext extends BenchOptions {
  /** Engine settings that were asked for. */
  readonly options: ConfigOptions;
  /** Measured at the first call, while no model is loaded; undefined where nothing is to be judged by them. */
  readonly limits: () => Limits | undefined;
  readonly log: (line: string) => void;
}

export interface BenchOptions {
  readonly shape: ShapeName;
  readonly batch?: readonly number[];
  readonly inputLen?: readonly number[];
  readonly outputLen?: number;
  readonly numRequests?: number;
  readonly repeats: number;
  readonly seconds?: number;
  readonly hours?: number;
  readonly model?: string;
  readonly python?: string;
  readonly threshold?: number;
  readonly ranks?: readonly number[];
  readonly rates?: readonly number[];
  readonly sharedLen?: number;
}

const count = (doc: string, min = 1) =>
  ({ kind: 'number', min, max: Number.MAX_SAFE_INTEGER, integer: true, doc }) as const;

const BENCH_FIELDS = {
  shape: { kind: 'choice', choices: Object.keys(SHAPES), doc: 'Random weights of this shape; default qwen3-0.6b.' },
  batch: {
    kind: 'integers',
    min: 1,
    doc: 'latency, backends: requests at once; default 1,16,64 on cuda. memory: one number, default 16.',
  },
  inputLen: { kind: 'integers', min: 1, doc: 'latency: prompt tokens, default 512; serving: default 100 to 1024.' },
  outputLen: count(
    'latency: generated tokens; default 128 on cuda, else 32; serving: the same for all, default 100 to 1024.',
    2,
  ),
  numRequests: count('throughput, serving: how many requests; default 256 on cuda, else 8 and 32.'),
  rates: { kind: 'rates', doc: 'serving: requests a second; default 0.3 to 1.2 × what all at once are served at.' },
  sharedLen: count('serving: tokens of the system prompt with which all requests begin, default 256.', 0),
  seconds: count('soak: how long, default 600; backends: a run at most, default 20.'),
  hours: count('soak: how long, instead of --seconds.'),
  threshold: {
    kind: 'number',
    min: 0,
    max: 1000,
    integer: false,
    doc: '--baseline: percent by which a figure may be worse; default 10.',
  },
  ranks: { kind: 'integers', min: 1, doc: 'parallel: numbers of ranks to compare, default 1,2.' },
  repeats: count('latency: the best and the median of this many are reported, default 3.'),
} as const satisfies Fields;

/** Suites whose prompts are not of 512 tokens when nothing is said. */
const OWN_LENGTHS = ['serving', 'backends', 'memory'];

/** A benchmark makes its own model, and its suites set how long requests may be. */
const { loadFormat: _, maxModelLen: __, ...ENGINE_FIELDS } = CONFIG_FIELDS;

export interface BenchArguments {
  readonly help: boolean;
  readonly suite: string;
  readonly json: string | undefined;
  /** A stored run to compare with. */
  readonly baseline: string | undefined;
  readonly learner: string | undefined;
  readonly bench: BenchOptions;
  readonly options: ConfigOptions;
}

/** @throws ConfigError naming the flag, the value and what is accepted. */
export function parseBenchArguments(argv: readonly string[], suites: readonly string[]): BenchArguments {
  const others = {
    model: 'string',
    python: 'string',
    suite: 'string',
    json: 'string',
    baseline: 'string',
    learner: 'string',
    help: 'boolean',
  } as const;
  const hint = '`npm run bench -- --help` lists all flags.';
  const values = parseFlags(argv, { ...BENCH_FIELDS, ...ENGINE_FIELDS }, others, hint);
  const [bench, options] = [readFields(BENCH_FIELDS, values), readFields(ENGINE_FIELDS, values)];
  checkFields(BENCH_FIELDS, bench, ConfigError);
  checkFields(ENGINE_FIELDS, options, ConfigError);
  const suite = (values.suite as string | undefined) ?? 'latency';
  if (!suites.includes(suite)) throw new ConfigError(`--suite must be one of ${suites.join(', ')}, got '${suite}'.`);
  return {
    help: values.help === true,
    suite,
    json: values.json as string | undefined,
    baseline: values.baseline as string | undefined,
    learner: values.learner as string | undefined,
    bench: {
      model: values.model as string | undefined,
      python: values.python as string | undefined,
      shape: 'qwen3-0.6b',
      ...(!OWN_LENGTHS.includes(suite) && { inputLen: [512] }),
      repeats: 3,
      ...bench,
    } as BenchOptions,
    options,
  };
}

export const helpText = (suites: readonly (readonly [name: string, about: string])[]): string =>
  [
    'Usage: npm run bench -- [flags]',
    '',
    'Suites:',
    ...suites.map(([name, about]) => `  ${name.padEnd(34)} ${about}`),
    '',
    flagLine('suite', 'NAME', 'One of the suites; default latency.'),
    flagLine('json', 'FILE', 'Also write the figures there.'),
    flagLine('baseline', 'FILE', 'Compare with figures that --json wrote; exit with 1 when some are worse.'),
    flagLine('python', 'FILE', 'compare: a Python with torch and transformers, perhaps nano-vllm; default python3.'),
    flagLine('model', 'DIR', 'latency, soak …: this model in place of random weights of a shape.'),
    flagLine('learner', 'DAYS', 'Measure with your exercises of these days in it: 7, or 1-7.'),
    ...fieldLines(BENCH_FIELDS),
    '',
    'Engine:',
    ...fieldLines(ENGINE_FIELDS),
    '',
  ].join('\n');
