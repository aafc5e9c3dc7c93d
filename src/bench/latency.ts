import { performance } from 'node:perf_hooks';
import { CpuBackend, READ_PATTERNS } from '#nano/backends/cpu';
import type { BenchContext, BenchRow } from '#nano/bench/main';
import { shapeFiles } from '#nano/bench/shapes';
import { Config } from '#nano/config';
import { buildEngine } from '#nano/engine/build-engine';
import type { LLMEngine } from '#nano/engine/llm-engine';
import { platform } from '#nano/platform';

const MIB = 2 ** 20;
const PROBE_BYTES = 2 ** 30;

/**
 * One sequence: the time of a prefill, and of each decoded token. Decoding reads every weight once a token, so
 * its floor is weight bytes over the machine's measured read bandwidth.
 */
export async function latency({
  shape,
  options,
  inputTokens,
  outputTokens,
  repeats,
  log,
}: BenchContext): Promise<BenchRow[]> {
  const backend = platform.createBackend(options.backend ?? 'auto');
  const bandwidth = backend instanceof CpuBackend ? measureBandwidth(backend, log) : undefined;
  const maxModelLen = inputTokens + outputTokens + 1;
  const config = new Config({
    loadFormat: 'dummy',
    maxNumSeqs: 1,
    enablePrefixCaching: false,
    ...options,
    maxModelLen,
  });
  log(`loading random weights of ${shape} …`);
  const built = await buildEngine(shapeFiles(shape), config, backend, () => 2 ** 31, () => {});
  const { engine, ops, modelConfig, dtype, weightBytes } = built;
  const rows: BenchRow[] = [];
  const best = { prefill: Infinity, decode: Infinity };
  for (let i = 0; i < repeats; i++) {
    const prompt = Array.from({ length: inputTokens }, (_, t) => (t * 7919 + i * 104729) % modelConfig.vocabSize);
    engine.addRequest(prompt, { temperature: 0, maxTokens: outputTokens, ignoreEos: true });
    const started = performance.now();
    await step(engine);
    const prefilled = performance.now();
    while (engine.hasUnfinishedRequests) await step(engine);
    best.prefill = Math.min(best.prefill, (prefilled - started) / 1000);
    best.decode = Math.min(best.decode, (performance.now() - prefilled) / 1000 / (outputTokens - 1));
  }
  log(`${backend.description}; ${dtype}; weights ${(weightBytes / 1e6).toFixed(0)} MB`);
  rows.push({ what: `prefill of ${inputTokens} tokens`, value: inputTokens / best.prefill, unit: 'tok/s' });
  rows.push({
    what: `decode after ${inputTokens} tokens, one sequence`,
    value: 1 / best.decode,
    unit: 'tok/s',
    ...(bandwidth && { bound: bandwidth / weightBytes, boundIs: 'read bandwidth / weight bytes' }),
  });
  if (bandwidth) rows.push({ what: 'memory read bandwidth, all threads', value: bandwidth / 1e9, unit: 'GB/s' });
  const kvBytes = backend.allocatedBytes - weightBytes - ops.arenaBytes;
  rows.push({
    what: 'peak resident size',
    value: process.resourceUsage().maxRSS / 1024,
    unit: 'MiB',
    bound: (1.3 * weightBytes + kvBytes + 150e6) / MIB,
    boundIs: '1.3 × weights + KV cache + 150 MB, not to be exceeded',
  });
  backend.close();
  return rows;
}

/** One step, of which every request must come out well. */
async function step(engine: LLMEngine): Promise<void> {
  for (const { error } of await engine.step()) if (error) throw error;
}

/** The best of three access patterns over 1 GiB. */
function measureBandwidth(backend: CpuBackend, log: (line: string) => void): number {
  const results = READ_PATTERNS.map((pattern) => ({
    pattern,
    rate: backend.readBandwidth(PROBE_BYTES, pattern, 1.5),
  }));
  log(`read bandwidth: ${results.map(({ pattern, rate }) => `${pattern} ${(rate / 1e9).toFixed(1)}`).join(', ')} GB/s`);
  return Math.max(...results.map(({ rate }) => rate));
}
