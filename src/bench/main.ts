import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { dirname } from 'node:path';
import { attention } from '#nano/bench/attention';
import { backends } from '#nano/bench/backends';
import { compareWithBaseline } from '#nano/bench/baseline';
import { compare } from '#nano/bench/compare';
import { latency } from '#nano/bench/latency';
import { measureLimits } from '#nano/bench/limits';
import { linear } from '#nano/bench/linear';
import { memory } from '#nano/bench/memory';
import { type BenchContext, helpText, parseBenchArguments } from '#nano/bench/options';
import { parallel } from '#nano/bench/parallel';
import { type BenchRow, render } from '#nano/bench/report';
import { serving } from '#nano/bench/serving';
import { soak } from '#nano/bench/soak';
import { startup } from '#nano/bench/startup';
import { throughput } from '#nano/bench/throughput';
import { runAsLearner } from '#nano/cli/learner';
import { ConfigError, NanoVllmError } from '#nano/errors';
import { platform } from '#nano/platform';
import type { Backend } from '#nano/tensor/kernels';

interface Suite {
  readonly about: string;
  readonly run: (context: BenchContext) => Promise<BenchRow[]>;
  /** Times kernels by a GPU's clock. */
  readonly onlyCuda?: boolean;
}

const SUITES: Readonly<Record<string, Suite>> = {
  latency: { run: latency, about: 'Time to the first token, and from each to the next, by batch and prompt length.' },
  throughput: { run: throughput, about: "nano-vllm's benchmark: 256 requests, 100 to 1024 tokens in and out." },
  serving: {
    run: serving,
    about:
      'Requests that arrive at several rates: latency by load, with and without prefix caching and chunked prefill.',
  },
  backends: {
    run: backends,
    about: 'Tokens a second by attention backend, batch and length; where flash begins to win.',
  },
  compare: {
    run: compare,
    about: 'The same requests through Hugging Face transformers, and nano-vllm where it is installed.',
  },
  memory: { run: memory, about: 'What a step needs as requests get longer: paged kernels beside the dense gather.' },
  parallel: {
    run: parallel,
    about: 'Throughput and decode steps on 1, 2, … ranks, and what of them is communication.',
  },
  startup: { run: startup, about: 'From the start of the process to the first token.' },
  soak: { run: soak, about: 'Mixed load for a while: does memory grow?' },
  attention: { run: attention, onlyCuda: true, about: "Each attention kernel at Qwen3-0.6B's sizes (cuda)." },
  linear: { run: linear, onlyCuda: true, about: "Matrix products at the shape's sizes, by the number of rows (cuda)." },
};

async function main(): Promise<void> {
  const argv = process.argv.slice(2);
  const { help, suite, json, baseline, learner, bench, options } = parseBenchArguments(argv, Object.keys(SUITES));
  if (help) {
    process.stdout.write(helpText(Object.entries(SUITES).map(([name, { about }]) => [name, about])));
    return;
  }
  if (learner) {
    process.exitCode = runAsLearner(learner, argv, '../bench/main.js');
    return;
  }
  const { run, onlyCuda } = SUITES[suite];
  const backendName = onlyCuda ? 'cuda' : (options.backend ?? 'auto');
  if (onlyCuda && (options.backend ?? 'cuda') !== 'cuda') {
    throw new ConfigError(
      `The suite '${suite}' measures the cuda backend's kernels: --backend ${options.backend} has none.`,
    );
  }
  const log = (line: string) => process.stderr.write(`${line}\n`);
  // On a backend of its own, so that what was measured with is gone before a model is loaded.
  const withBackend = <T>(use: (backend: Backend) => T): T => {
    const backend = platform.createBackend(backendName);
    try {
      return use(backend);
    } finally {
      backend.close();
    }
  };
  const limits = () => withBackend((backend) => measureLimits(backend, log));
  const rows = await run({ ...bench, options, limits, log });
  process.stdout.write(render(rows));
  if (baseline) judge(rows, suite, baseline, (bench.threshold ?? 10) / 100);
  if (!json) return;
  const device = withBackend(({ description }) => description);
  const machine = `${cpus().length} × ${cpus()[0]?.model.trim() ?? 'unknown processor'}`;
  const date = new Date().toISOString().slice(0, 10);
  const about = { suite, device, machine, date, commit: commit(), node: process.version };
  mkdirSync(dirname(json), { recursive: true });
  writeFileSync(json, `${JSON.stringify({ ...about, options: { ...bench, ...options }, rows }, null, 2)}\n`);
}

/** Exits with 1 when the run is slower than the stored one. */
function judge(rows: readonly BenchRow[], suite: string, file: string, threshold: number): void {
  const stored = JSON.parse(readFileSync(file, 'utf8')) as { suite: string; device: string; rows: BenchRow[] };
  if (stored.suite !== suite) {
    throw new ConfigError(`--baseline ${file} is a run of the suite '${stored.suite}', and this was '${suite}'.`);
  }
  const { lines, numWorse } = compareWithBaseline(rows, stored.rows, threshold);
  process.stdout.write(`\nAgainst ${file} (${stored.device}):\n${lines.join('\n')}\n`);
  if (numWorse > 0) process.exitCode = 1;
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
