import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { BenchEngine } from '#nano/bench/engine';
import type { BenchContext } from '#nano/bench/options';
import type { BenchRow } from '#nano/bench/report';
import { shapeFiles } from '#nano/bench/shapes';
import { ConfigError } from '#nano/errors';
import { findUp } from '#nano/platform/find-up';

const OURS = 'nano-vllm-ts';
const TABLE = 'Output tokens a second, whole requests: requests × tokens in × tokens out';

/** One line of `compare.py`. */
interface Line {
  readonly workload: string;
  readonly rate: number | null;
}

/**
 * The same requests through this engine and through Hugging Face transformers (on a GPU also compiled: without that its speed
 * is the host's), and through nano-vllm where the Python that `--python` names has it: random weights of one shape, on the same
 * device, greedy (nano-vllm, which knows no temperature 0: sampled), whole requests with their prefill.
 */
export async function compare(context: BenchContext): Promise<BenchRow[]> {
  const { batch = [1, 32], inputLen = [512], outputLen = 128, python = 'python3', log } = context;
  const bench = await BenchEngine.open(context, {
    maxNumSeqs: Math.max(...batch),
    maxModelLen: Math.max(...inputLen) + outputLen,
    enablePrefixCaching: false,
  });
  const { backend, built } = bench;
  const workloads = batch.flatMap((requests) => inputLen.map((length) => [requests, length] as const));
  const nameOf = (requests: number, length: number) => `${requests}×${length}×${outputLen}`;
  const ours: Line[] = [];
  for (const [requests, length] of workloads) {
    await run(bench, requests, length, 8);
    const seconds = await run(bench, requests, length, outputLen);
    ours.push({ workload: nameOf(requests, length), rate: (requests * outputLen) / seconds });
    log(`${OURS}, ${nameOf(requests, length)}: ${ours[ours.length - 1].rate?.toFixed(1)} tok/s`);
  }
  const dtype = built.dtype;
  const device = backend.name === 'cuda' ? 'cuda' : 'cpu';
  await bench.close();

  const { name: config } = await shapeFiles(context.shape);
  const names = workloads.map(([requests, length]) => nameOf(requests, length));
  const peers = ['transformers'];
  if (device === 'cuda') peers.push('transformers-compiled');
  if (hasNanoVllm(python)) peers.push('nano-vllm');
  const rows = ours.map(({ workload, rate }) => cell(workload, OURS, 'tok/s', rate));
  for (const peer of peers) {
    log(`${peer} …`);
    let lines: Line[] = [];
    try {
      lines = runPeer(python, [peer, config, device, dtype, ...names]);
    } catch (error) {
      if (peer === 'transformers') throw error;
      log((error as Error).message); // to compile takes a C compiler, nano-vllm a GPU: what ran without is not lost
    }
    for (const { workload, rate } of lines) {
      const own = ours.find((line) => line.workload === workload)?.rate;
      rows.push(cell(workload, peer, 'tok/s', rate));
      rows.push(cell(workload, `${OURS} / ${peer}`, '×', rate && own ? own / rate : null));
    }
  }
  return rows;
}

const cell = (what: string, column: string, unit: string, value: number | null): BenchRow => {
  return { table: TABLE, what, column, unit, value, ...(value === null && { note: 'OOM' }) };
};

/** Seconds. */
async function run(bench: BenchEngine, requests: number, length: number, outputs: number): Promise<number> {
  const { engine, modelConfig } = bench.built;
  const random = () => Math.floor(Math.random() * modelConfig.vocabSize);
  const started = performance.now();
  for (let i = 0; i < requests; i++) {
    const prompt = Array.from({ length }, random);
    engine.addRequest(prompt, { temperature: 0, maxTokens: outputs, ignoreEos: true });
  }
  while (bench.isBusy) await bench.step();
  return (performance.now() - started) / 1000;
}

const hasNanoVllm = (python: string): boolean => spawnSync(python, ['-c', 'import nanovllm']).status === 0;

/** @throws ConfigError saying what the program printed. */
function runPeer(python: string, args: readonly string[]): Line[] {
  const script = findUp(join('src', 'bench', 'compare.py'));
  const { status, stdout, stderr, error } = spawnSync(python, [script, ...args], { encoding: 'utf8' });
  if (error || status !== 0) {
    throw new ConfigError(
      `${args[0]} did not run: ${error?.message ?? stderr.trim().split('\n').slice(-3).join(' ')}. --python names a Python that has ` +
        'torch and transformers.',
    );
  }
  return stdout
    .split('\n')
    .filter((line) => line.startsWith('{')) // libraries print too
    .map((line) => JSON.parse(line) as Line);
}
