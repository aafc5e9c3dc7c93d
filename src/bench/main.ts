import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { dirname } from 'node:path';
import { parseArgs } from 'node:util';
import { latency } from '#nano/bench/latency';
import { SHAPES, type ShapeName } from '#nano/bench/shapes';
import type { ConfigOptions } from '#nano/config';
import { ConfigError, NanoVllmError } from '#nano/errors';

/** One measured figure; where there is a physical bound, the figure is judged by its share of it. */
export interface BenchRow {
  readonly what: string;
  readonly value: number;
  readonly unit: string;
  readonly bound?: number;
  /** What the bound is, in words. */
  readonly boundIs?: string;
}

export interface BenchContext {
  readonly shape: ShapeName;
  readonly options: ConfigOptions;
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly repeats: number;
  readonly log: (line: string) => void;
}

const SUITES: Readonly<Record<string, (context: BenchContext) => Promise<BenchRow[]>>> = { latency };

const USAGE = `Usage: npm run bench -- [flags]
  --suite ${Object.keys(SUITES).join('|')}       default latency
  --shape ${Object.keys(SHAPES).join('|')}
                        random weights of this shape; default qwen3-0.6b
  --backend NAME        auto, cpu or reference
  --dtype NAME          bfloat16 (default), float16 or float32
  --input-len N         prompt tokens, default 512
  --output-len N        generated tokens, default 32
  --repeats N           the best of this many is reported, default 3
  --json FILE           also write the figures there
`;

async function main(): Promise<void> {
  const text = { type: 'string' } as const;
  const { values } = parseArgs({
    options: {
      ...{ suite: text, shape: text, backend: text, dtype: text, json: text },
      ...{ 'input-len': text, 'output-len': text, repeats: text, help: { type: 'boolean' } },
    },
  });
  if (values.help) {
    process.stdout.write(USAGE);
    return;
  }
  const suite = choose('suite', values.suite ?? 'latency', SUITES);
  const shape = values.shape ?? 'qwen3-0.6b';
  choose('shape', shape, SHAPES);
  const rows = await suite({
    shape: shape as ShapeName,
    options: { backend: values.backend as ConfigOptions['backend'], dtype: values.dtype as ConfigOptions['dtype'] },
    inputTokens: wholeNumber('input-len', values['input-len'] ?? '512'),
    outputTokens: wholeNumber('output-len', values['output-len'] ?? '32', 2),
    repeats: wholeNumber('repeats', values.repeats ?? '3'),
    log: (line) => process.stderr.write(`${line}\n`),
  });
  const machine = `${cpus().length} × ${cpus()[0]?.model.trim() ?? 'unknown processor'}`;
  process.stdout.write(table(rows));
  if (values.json) {
    const record = {
      machine,
      date: new Date().toISOString().slice(0, 10),
      commit: commit(),
      node: process.version,
      shape,
      rows,
    };
    mkdirSync(dirname(values.json), { recursive: true });
    writeFileSync(values.json, `${JSON.stringify(record, null, 2)}\n`);
  }
}

function choose<T>(flag: string, name: string, among: Readonly<Record<string, T>>): T {
  if (Object.hasOwn(among, name)) return among[name];
  throw new ConfigError(`--${flag} must be one of ${Object.keys(among).join(', ')}, got '${name}'.`);
}

function wholeNumber(flag: string, text: string, min = 1): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= min) return value;
  throw new ConfigError(`--${flag} must be a whole number of at least ${min}, got '${text}'.`);
}

function table(rows: readonly BenchRow[]): string {
  const number = (x: number) => x.toPrecision(4);
  const lines = rows.map(({ what, value, unit, bound, boundIs }) => {
    const share = bound === undefined ? '' : `${((100 * value) / bound).toFixed(0)}% of ${number(bound)} (${boundIs})`;
    return `${what.padEnd(44)} ${number(value).padStart(8)} ${unit.padEnd(6)} ${share}`.trimEnd();
  });
  return `${lines.join('\n')}\n`;
}

function commit(): string {
  try {
    return execFileSync('git', ['describe', '--always', '--dirty'], { encoding: 'utf8', stdio: 'pipe' }).trim();
  } catch {
    return 'unknown';
  }
}

main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof NanoVllmError ? error.message : (error as Error).stack}\n`);
  process.exitCode = 1;
});
