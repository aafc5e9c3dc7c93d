import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Config } from '#nano/config';
import { ALONE } from '#nano/distributed/process-group';
import { buildEngine } from '#nano/engine/build-engine';
import type { RequestUpdate } from '#nano/engine/outputs';
import { DistributedError } from '#nano/errors';
import { platform } from '#nano/platform';
import { FolderFiles } from '#nano/platform/node-files';
import { openProcesses, openThreads } from '#nano/platform/node-ranks';
import type { Opened } from '#nano/platform/platform';
import { eventually } from '../helpers/processes';

const MODEL = 'tests/goldens/gqa2-d64-tied';
const WORLD = 3;
const wanted = (tensorParallelSize: number) => ({ backend: 'cpu', batchInvariant: false, tensorParallelSize }) as const;
const entryOf = (name: string) => join(import.meta.dirname, '../helpers', name);

async function engineOn(opened: Opened, tensorParallelSize: number) {
  const config = new Config({
    ...wanted(tensorParallelSize),
    dtype: 'float32',
    maxModelLen: 256,
    numKvCacheBlocks: 64,
  });
  const files = await FolderFiles.open(MODEL);
  const { engine } = await buildEngine(
    files,
    config,
    opened.backend,
    () => 0,
    () => {},
    opened.ranks,
  );
  return engine;
}

type Engine = Awaited<ReturnType<typeof engineOn>>;

async function finish(engine: Engine): Promise<RequestUpdate[]> {
  const ended: RequestUpdate[] = [];
  while (engine.hasUnfinishedRequests) {
    for (const update of await engine.step()) if (update.output || update.error) ended.push(update);
    await platform.yieldToEventLoop();
  }
  return ended;
}

const prompts = [
  [1, 2, 3],
  [4, 5],
  [6, 7, 8, 9],
];
/** This process's children (Linux). */
const children = (): number[] =>
  readdirSync('/proc/self/task').flatMap((task) => {
    const pids = readFileSync(`/proc/self/task/${task}/children`, 'utf8').trim();
    return pids === '' ? [] : pids.split(' ').map(Number);
  });

const addAll = (engine: Engine) => {
  for (const prompt of prompts) engine.addRequest(prompt, { temperature: 0.8, maxTokens: 40, ignoreEos: true });
};

/** Every request must end with the same clear error, within ten seconds, and no block may be lost. */
async function expectTheEnd(engine: Engine, message: string | RegExp): Promise<void> {
  const started = performance.now();
  const ended = await finish(engine);
  expect(performance.now() - started).toBeLessThan(10_000);
  expect(ended.length).toBe(prompts.length);
  for (const { error } of ended) {
    expect(error).toBeInstanceOf(DistributedError);
    expect(error?.message).toMatch(message);
    expect(error?.message).toContain('The ranks of a model end together: load it again.');
  }
  expect(engine.numFreeBlocks).toBe(64);
  // Who comes later hears the same at once.
  engine.addRequest([1, 2], { maxTokens: 3 });
  expect((await finish(engine))[0].error?.message).toMatch(message);
}

describe('ranks in threads: one of them', () => {
  afterEach(() => delete process.env.FAULT);

  test.each([
    ['throws', 'throw 50', /the rank lost its nerve/],
    ['exits', 'exit 50', /Rank 1 was lost: its thread ended with code 3/],
    ['exits while the first prompt is computed', 'exit 0', /Rank 1 was lost: its thread ended with code 3/],
  ])('%s', async (_, fault, message) => {
    process.env.FAULT = fault;
    const opened = openThreads(
      MODEL,
      wanted(2),
      platform.createBackend('cpu', { ranksOnHost: 2 }),
      entryOf('rank-thread.mjs'),
    );
    const engine = await engineOn(opened, 2);
    addAll(engine);
    await expectTheEnd(engine, message);
    engine.close();
    await opened.close();
  });

  test('and a model that does not load says why', async () => {
    process.env.FAULT = 'throw 999999';
    const opened = openThreads('tests/goldens', wanted(2), platform.createBackend('cpu'), entryOf('rank-thread.mjs'));
    await expect(engineOn(opened, 2)).rejects.toThrow(/Rank 1 failed: config\.json is missing/);
    await opened.close();
  });
});

describe('ranks in processes', () => {
  let folder: string;
  let opened: Opened;
  const drawnBy = (rank: number) => JSON.parse(readFileSync(join(folder, `drawn.${rank}`), 'utf8')) as number[];

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'ranks-'));
    process.env.DRAWN = join(folder, 'drawn');
    const connect = async () => ALONE;
    opened = await openProcesses(MODEL, wanted(WORLD), platform.createBackend('cpu'), {
      ...{ entry: entryOf('rank-process.mjs'), uniqueId: null, connect },
    });
  });
  afterEach(() => {
    delete process.env.DRAWN;
    rmSync(folder, { recursive: true, force: true });
  });

  test('get every step, draw the same tokens, and end when told to', async () => {
    const engine = await engineOn(opened, WORLD);
    addAll(engine);
    const ended = await finish(engine);
    const tokens = ended.flatMap(({ output }) => output?.tokenIds ?? []);
    expect(tokens.length).toBe(120);
    engine.close();
    await opened.close();
    for (const rank of [1, 2]) expect([...drawnBy(rank)].sort()).toEqual([...tokens].sort());
    expect(children()).toEqual([]);
  });

  test('one that is killed in the middle of a run ends it, and nothing is left', async () => {
    const engine = await engineOn(opened, WORLD);
    const pids = children();
    expect(pids.length).toBe(WORLD - 1);
    addAll(engine);
    for (let i = 0; i < 5; i++) await engine.step();
    process.kill(pids[1], 'SIGKILL');
    await eventually('the process is gone', () => children().length < WORLD - 1);
    await expectTheEnd(engine, /rank \d \(.*pid \d+\) was lost: the process ended \(SIGKILL\)/i);
    engine.close();
    await opened.close();
    expect(children()).toEqual([]);
  });
});
