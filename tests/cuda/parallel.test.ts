// Two GPUs, a process for each: the same answers as one, and a clear end when one is lost.
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, test } from 'vitest';
import { createCudaBackend, cudaDeviceCount } from '#nano/backends/cuda';
import type { ConfigOptions } from '#nano/config';
import type { RequestOutput } from '#nano/engine/outputs';
import { DistributedError } from '#nano/errors';
import { LLM } from '#nano/llm';
import { goldenNames, readGolden } from '../helpers/models';
import { eventually, isRunning } from '../helpers/processes';

const STORYTELLER = fileURLToPath(new URL('../../models/storyteller', import.meta.url));
const quiet = { progress: false };
const loaded: LLM[] = [];

async function load(model: string, options: ConfigOptions): Promise<LLM> {
  const llm = await LLM.load(model, { backend: 'cuda', maxModelLen: 256, maxNumSeqs: 64, ...options });
  loaded.push(llm);
  return llm;
}

/** This process's children (Linux). */
const children = (): number[] =>
  readdirSync('/proc/self/task').flatMap((task) =>
    readFileSync(`/proc/self/task/${task}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number),
  );

const tokensOf = (outputs: readonly RequestOutput[]) => outputs.map(({ tokenIds }) => tokenIds);

/**
 * How far the log-probabilities of the 20 likeliest tokens are from those of these logits, by the root of the mean square,
 * relative to the spread of the logits.
 */
function logprobError(output: RequestOutput, logits: Float32Array): number {
  const { top } = output.logprobs![0];
  const mean = logits.reduce((sum, x) => sum + x, 0) / logits.length;
  const spread = Math.sqrt(logits.reduce((sum, x) => sum + (x - mean) ** 2, 0) / logits.length);
  const largest = Math.max(...logits);
  const logSum = largest + Math.log(logits.reduce((sum, x) => sum + Math.exp(x - largest), 0));
  const squares = top.map(({ tokenId, logprob }) => (logprob - (logits[tokenId] - logSum)) ** 2);
  return Math.sqrt(squares.reduce((a, b) => a + b, 0) / squares.length) / spread;
}

describe.skipIf(cudaDeviceCount() < 2)('two ranks on two GPUs', () => {
  afterEach(async () => {
    for (const llm of loaded.splice(0)) await llm.close();
  });

  for (const name of goldenNames()) {
    test(`${name}: log-probabilities are as near to Hugging Face's as those of one GPU`, async (context) => {
      const golden = await readGolden(name);
      if (/mha|square/.test(name)) return context.skip('an odd number of heads');
      if (name === 'gqa2-d128-untied') return context.skip('28 inputs a rank: the GPU’s products want multiples of 8');
      const dtype = golden.dtype === 'float16' ? 'float16' : 'bfloat16';
      const errors: Record<number, number> = {};
      for (const tensorParallelSize of [1, 2]) {
        const llm = await load(golden.folder, { dtype, tensorParallelSize, enablePrefixCaching: false });
        errors[tensorParallelSize] = 0;
        for (const { tokenIds, rows, logits } of golden.prompts) {
          const vocab = logits.length / rows.length;
          const prompts = rows.map((row) => tokenIds.slice(0, row + 1));
          const outputs = await llm.generate(
            prompts,
            { temperature: 0, maxTokens: 1, logprobs: 20, ignoreEos: true },
            quiet,
          );
          outputs.forEach((output, i) => {
            const error = logprobError(output, logits.subarray(i * vocab, (i + 1) * vocab));
            errors[tensorParallelSize] = Math.max(errors[tensorParallelSize], error);
          });
        }
      }
      console.log(`${name}, ${dtype}: one GPU ${errors[1].toFixed(4)}, two ${errors[2].toFixed(4)}`);
      // A residual is rounded once more, by the rank that adds to it.
      expect(errors[2]).toBeLessThan(1.5 * errors[1] + 0.01);
    });
  }

  test('the storyteller, forced to the CPU’s tokens, draws them wherever it is not a close call', async () => {
    const cpu = await LLM.load(STORYTELLER, { backend: 'cpu', maxModelLen: 256 });
    const starts = ['Once upon a time,', 'One morning, a small fox', 'Tom the bear had', 'Far away, by the sea'];
    const greedy = { temperature: 0, ignoreEos: true, logprobs: 2 };
    const told = await cpu.generate(starts, { ...greedy, maxTokens: 48 }, quiet);
    const prompts = starts.map((start) => cpu.tokenizer.encode(start));
    await cpu.close();
    const llm = await load(STORYTELLER, { tensorParallelSize: 2 });
    const forced = told.flatMap(({ tokenIds }, i) => tokenIds.map((_, t) => [...prompts[i], ...tokenIds.slice(0, t)]));
    const drawn = tokensOf(await llm.generate(forced, { ...greedy, maxTokens: 1 }, quiet)).map(([token]) => token);
    let close = 0;
    told.forEach(({ tokenIds, logprobs }, i) => {
      tokenIds.forEach((token, t) => {
        const [first, second] = logprobs![t].top;
        if (drawn[i * 48 + t] === token) return;
        close++;
        expect(first.logprob - second.logprob, `story ${i}, token ${t}`).toBeLessThan(0.6);
      });
    });
    console.log(
      `storyteller on two GPUs: ${drawn.length - close} of ${drawn.length} tokens agree, the others were close calls`,
    );
    const free = tokensOf(await llm.generate(starts, { ...greedy, maxTokens: 48 }, quiet));
    console.log(
      `free-running: ${free.filter((t, i) => t.join() === told[i].tokenIds.join()).length} of ${starts.length} agree`,
    );
  });

  test('graphs that hold collectives give what eager steps give; batchInvariant, to the bit and in any batch', async () => {
    const prompts = Array.from({ length: 20 }, (_, i) =>
      Array.from({ length: 3 + 4 * i }, (_, t) => 20 + ((t * 13 + i * 7) % 1500)),
    );
    const params = prompts.map((_, i) => ({ temperature: i % 2 ? 0.8 : 0, maxTokens: 40, ignoreEos: true, seed: i }));
    const common = { tensorParallelSize: 2, batchInvariant: true } as const;
    const graphs = await load(STORYTELLER, common);
    const batch = tokensOf(await graphs.generate(prompts, params, quiet));
    const alone: (readonly number[])[] = [];
    for (const [i, prompt] of prompts.entries())
      alone.push(...tokensOf(await graphs.generate([prompt], params[i], quiet)));
    expect(alone).toEqual(batch);
    await graphs.close();
    const eager = await load(STORYTELLER, { ...common, enforceEager: true });
    expect(tokensOf(await eager.generate(prompts, params, quiet))).toEqual(batch);
  });

  test('each rank holds half of the cache, and close() gives everything back', async () => {
    const free = () =>
      [0, 1].map((device) => {
        const backend = createCudaBackend({ device });
        const { free } = backend.memoryInfo();
        backend.close();
        return free;
      });
    const before = free();
    const llm = await load(STORYTELLER, { tensorParallelSize: 2, numKvCacheBlocks: 1000 });
    const [first, second] = llm.stats().ranks;
    expect(first.kvCacheBytes).toBe(second.kvCacheBytes);
    expect(first.kvCacheBytes).toBeGreaterThanOrEqual(1000 * 16 * 2 * 10 * 64 * 2);
    expect(first.kvCacheBytes).toBeLessThan(1.2 * 1000 * 16 * 2 * 10 * 64 * 2);
    await llm.close();
    expect(children()).toEqual([]);
    free().forEach((bytes, device) => expect(bytes, `GPU ${device}`).toBeGreaterThan(before[device] - 64 * 2 ** 20));
  });

  test('the other rank is killed in the middle of a run: a clear error within ten seconds, and nothing is left', async () => {
    const shared = readdirSync('/dev/shm').sort();
    const llm = await load(STORYTELLER, { tensorParallelSize: 2 });
    const [pid] = children();
    const requests = llm.generate(
      Array(8).fill('Once upon a time'),
      { maxTokens: 200, ignoreEos: true, temperature: 1 },
      quiet,
    );
    const failed = expect(requests).rejects.toThrow(DistributedError);
    await new Promise((done) => setTimeout(done, 50));
    const started = performance.now();
    process.kill(pid, 'SIGKILL');
    await failed;
    expect(performance.now() - started).toBeLessThan(10_000);
    await expect(requests).rejects.toThrow(/rank 1 .*was lost.*SIGKILL/i);
    await expect(llm.generate('And then', {}, quiet)).rejects.toThrow(DistributedError);
    await llm.close();
    expect(children()).toEqual([]);
    expect(readdirSync('/dev/shm').sort()).toEqual(shared);
  });

  test.each(['SIGKILL', 'SIGINT', 'SIGTERM'] as const)(
    'rank 0 ends by %s: within ten seconds nothing is left',
    async (signal) => {
      const shared = readdirSync('/dev/shm').sort();
      const script = fileURLToPath(new URL('../helpers/gpu-rank0.mjs', import.meta.url));
      const { VITEST, NODE_OPTIONS, ...env } = process.env;
      const rank0 = spawn(process.execPath, [script, STORYTELLER], {
        env,
        stdio: ['ignore', 'pipe', 'inherit'],
        detached: true,
      });
      const [line] = await new Promise<string[]>((done) =>
        rank0.stdout.once('data', (text) => done(String(text).split('\n'))),
      );
      const [other] = JSON.parse(line) as number[];
      expect(isRunning(other)).toBe(true);
      // Ctrl-C reaches every process of the command.
      process.kill(signal === 'SIGINT' ? -rank0.pid! : rank0.pid!, signal);
      await eventually('both ranks are gone', () => !isRunning(rank0.pid!) && !isRunning(other), 10);
      expect(readdirSync('/dev/shm').sort()).toEqual(shared);
    },
  );

  test('more ranks than GPUs are refused with both numbers', async () => {
    const many = 2 ** Math.ceil(Math.log2(cudaDeviceCount() + 1));
    await expect(load('tests/goldens/gqa8-d64-untied', { tensorParallelSize: Math.min(many, 8) })).rejects.toThrow(
      /tensorParallelSize \d+ needs as many GPUs, and this machine has \d+/,
    );
  });
});
