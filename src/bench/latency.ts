import { performance } from 'node:perf_hooks';
import { NativeBackend } from '#nano/backends/native';
import type { BenchContext, BenchRow } from '#nano/bench/main';
import { Config } from '#nano/config';
import { buildEngine } from '#nano/engine/build-engine';
import { platform } from '#nano/platform';
import { shapeFiles } from '#nano/bench/shapes';

const MIB = 2 ** 20;
const PROBE_BYTES = 2 ** 30;

/**
 * One sequence: the time of a prefill, and of each decoded token. Decoding reads every weight once a token, so
 * its floor is weight bytes over the machine's measured read bandwidth.
 */
export async function latency({ shape, options, inputTokens, outputTokens, repeats, log }: BenchContext): Promise<BenchRow[]> {
  const backend = platform.createBackend(options.backend ?? 'auto');
  const bandwidth = backend instanceof NativeBackend ? measureBandwidth(backend, log) : undefined;
  const maxModelLen = inputTokens + outputTokens + 1;
  const config = new Config({ loadFormat: 'dummy', maxNumSeqs: 1, enablePrefixCaching: false, ...options, maxModelLen });
  log(`loading random weights of ${shape} …`);
  const residentBefore = process.memoryUsage.rss();
  const before = backend.allocatedBytes;
  const { engine, modelConfig, dtype, weightBytes } = await buildEngine(shapeFiles(shape), config, backend, 2 ** 31, () => {});
  const rows: BenchRow[] = [];
  const best = { prefill: Infinity, decode: Infinity };
  for (let i = 0; i < repeats; i++) {
    const prompt = Array.from({ length: inputTokens }, (_, t) => (t * 7919 + i * 104729) % modelConfig.vocabSize);
    engine.addRequest(prompt, { temperature: 0, maxTokens: outputTokens, ignoreEos: true });
    const started = performance.now();
    await engine.step();
    const prefilled = performance.now();
    while (engine.hasUnfinishedRequests) await engine.step();
    best.prefill = Math.min(best.prefill, (prefilled - started) / 1000);
    best.decode = Math.min(best.decode, (performance.now() - prefilled) / 1000 / (outputTokens - 1));
  }
  const prefillRate = inputTokens / best.prefill;
  rows.push({ what: `prefill of ${inputTokens} tokens`, value: prefillRate, unit: 'tok/s' });
  const decodeRate = 1 / best.decode;
  const floor = bandwidth && bandwidth / weightBytes;
  rows.push({ what: `decode after ${inputTokens} tokens, one sequence`, value: decodeRate, unit: 'tok/s', floor, floorIs: 'weight bytes / read bandwidth' });
  const peak = process.resourceUsage().maxRSS * 1024;
  const kvBytes = backend.allocatedBytes - before - weightBytes - engine.arenaBytes;
  const limit = 1.3 * weightBytes + kvBytes + 150e6;
  rows.push({ what: 'peak resident size', value: peak / MIB, unit: 'MiB', floor: limit / MIB, floorIs: '1.3 × weights + KV cache + 150 MB (limit)' });
  log(`${backend.description}; ${dtype}; weights ${(weightBytes / 1e6).toFixed(0)} MB; resident before loading ${(residentBefore / MIB).toFixed(0)} MiB`);
  if (bandwidth) rows.push({ what: 'memory read bandwidth, all threads', value: bandwidth / 1e9, unit: 'GB/s' });
  backend.close();
  return rows;
}

/** The best of three access patterns over 1 GiB. */
function measureBandwidth(backend: NativeBackend, log: (line: string) => void): number {
  const results = (['halves', 'interleaved', 'prefetch'] as const).map((pattern) => ({
    pattern,
    rate: backend.readBandwidth(PROBE_BYTES, pattern, 1.5),
  }));
  log(`read bandwidth: ${results.map(({ pattern, rate }) => `${pattern} ${rate.toFixed(1)}`).join(', ')} GB/s`);
  return Math.max(...results.map(({ rate }) => rate)) * 1e9;
}
