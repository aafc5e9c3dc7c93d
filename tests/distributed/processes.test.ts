import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Channel } from '#nano/distributed/channel';
import { inheritedFlags } from '#nano/distributed/inherited-flags';
import { type ForkedRanks, type ForkOptions, forkRanks } from '#nano/distributed/processes';
import { DistributedError } from '#nano/errors';
import { eventually, isRunning } from '../helpers/processes';
import { freePort } from '../helpers/sockets';

// The processes run compiled code; `npm test` compiles before it tests.
const helper = (file: string) => fileURLToPath(new URL(`../helpers/${file}`, import.meta.url));

interface Answer {
  rank: number;
  pid: number;
  flags: string[];
  message: unknown;
}

/** A new message from each, in their order. */
function answers(channels: readonly Channel[]): (message: unknown) => Promise<Answer[]> {
  const resolves: ((value: unknown) => void)[] = [];
  channels.forEach((channel, i) => channel.onMessage((message) => resolves[i](message)));
  return (message) =>
    Promise.all(
      channels.map((channel, i) => {
        const answer = new Promise((resolve) => (resolves[i] = resolve));
        channel.send(message);
        return answer as Promise<Answer>;
      }),
    );
}

describe('forked ranks', () => {
  const own = process.execArgv;
  const groups: ForkedRanks[] = [];

  // The flags of this process are the test runner's: they would make Node look for #nano/… in TypeScript.
  beforeAll(() => {
    process.execArgv = ['--conditions=day1-of-no-course'];
  });
  afterAll(() => {
    process.execArgv = own;
  });
  afterEach(async () => {
    for (const group of groups.splice(0)) await group.stop();
  });

  async function fork(options: Omit<ForkOptions, 'entry'>): Promise<ForkedRanks> {
    const group = await forkRanks({ entry: helper('follower.mjs'), ...options });
    groups.push(group);
    return group;
  }

  test('talk with rank 0, have its flags, and end when they are stopped', async () => {
    const { channels, stop } = await fork({ worldSize: 4 });
    const ask = answers(channels);
    const message = { words: Int32Array.of(1, -2, 3), text: 'ü' };
    const all = await ask(message);
    expect(all.map(({ rank }) => rank)).toEqual([1, 2, 3]);
    for (const answer of all) expect(answer).toMatchObject({ message, flags: process.execArgv });
    expect(channels.map(({ peer }) => peer.replace(/\(.*, /, '('))).toEqual(
      all.map(({ rank, pid }) => `rank ${rank} (pid ${pid})`),
    );
    await stop();
    for (const { pid } of all) expect(isRunning(pid)).toBe(false);
    await stop();
  });

  test('of two groups do not notice each other', async () => {
    const [a, b] = await Promise.all([fork({ worldSize: 2 }), fork({ worldSize: 3 })]);
    expect(await answers(a.channels)('a')).toMatchObject([{ rank: 1, message: 'a' }]);
    expect(await answers(b.channels)('b')).toMatchObject([{ rank: 1 }, { rank: 2, message: 'b' }]);
  });

  test('one is killed: its channel closes and says so, the others go on', async () => {
    const { channels } = await fork({ worldSize: 3 });
    const [first] = await answers(channels)('hello');
    process.kill(first.pid, 'SIGKILL');
    expect(await channels[0].closed).toBe('the process ended (SIGKILL)');
    const stillThere = await Promise.race([channels[1].closed, Promise.resolve('open')]);
    expect(stillThere).toBe('open');
  });

  test('one hangs in native code: it is killed when all are stopped', async () => {
    const { channels, stop } = await fork({ worldSize: 3 });
    const ask = answers(channels);
    const all = await ask('hello');
    await ask('block');
    await stop();
    for (const { pid } of all) expect(isRunning(pid)).toBe(false);
  });

  test('one ends before it has come: the run ends at once, and no process is left', async () => {
    const error = await fork({ worldSize: 4, args: ['crash', '2'] }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(DistributedError);
    expect((error as Error).message).toBe('Rank 2 of 4 ended while starting (exit code 7). What it printed says why.');
  });

  test('one never comes', async () => {
    const error = await fork({ worldSize: 3, args: ['late', '1'], timeoutSeconds: 5 }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(DistributedError);
    // On a slow machine the other may be late, too.
    expect((error as Error).message).toMatch(
      /^Ranks? 1( and 2)? of 3 did not come to 127\.0\.0\.1:\d+ within 5 s\. What it/,
    );
  });

  test('get the flags that are for all', () => {
    const flags = ['--conditions=day1', '-C', 'day2', '--max-old-space-size=100', '--enable-source-maps'];
    expect(inheritedFlags([...flags, '--inspect=9229', '--input-type=module', '-e', 'code'])).toEqual(flags);
    expect(inheritedFlags(['--eval', '--code', '--inspect-brk'])).toEqual([]);
    expect(inheritedFlags(['--conditions', 'source', '-C', 'day2', '--conditions=source'])).toEqual(['-C', 'day2']);
  });
});

describe.skipIf(process.platform === 'win32')('with rank 0', () => {
  const started: number[] = [];

  afterEach(() => {
    for (const group of started.splice(0)) {
      try {
        process.kill(-group, 'SIGKILL');
      } catch {} // nobody is left in it
    }
  });

  /** A rank 0 in a process group of its own, as a terminal makes one of each command; and its followers. */
  async function start(mode: string) {
    const rank0 = spawn(process.execPath, [helper('rank0.mjs'), mode], {
      detached: true,
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    started.push(rank0.pid!);
    const lines = createInterface({ input: rank0.stdout })[Symbol.asyncIterator]();
    const nextLine = async () => (await lines.next()).value as string;
    const pids = JSON.parse(await nextLine()) as number[];
    expect(pids).toHaveLength(2);
    return { rank0, pids, nextLine, ended: () => eventually('all have ended', () => !pids.some(isRunning)) };
  }

  test.each(['SIGKILL', 'SIGTERM'] as const)('killed by %s, its followers end', async (signal) => {
    const { rank0, pids, ended } = await start('wait');
    expect(pids.every(isRunning)).toBe(true);
    rank0.kill(signal);
    await ended();
  });

  test('killed while they hang in native code, they end', async () => {
    const { rank0, pids, ended } = await start('block');
    expect(pids.every(isRunning)).toBe(true);
    rank0.kill('SIGKILL');
    await ended();
  });

  test('they end when it exits without a word', async () => {
    const { ended } = await start('exit');
    await ended();
  });

  test('Ctrl-C ends all', async () => {
    const { rank0, ended } = await start('wait');
    process.kill(-rank0.pid!, 'SIGINT');
    await once(rank0, 'exit');
    await ended();
  });

  test('Ctrl-C ends none when rank 0 decides so', async () => {
    const { rank0, pids, nextLine } = await start('ignore-sigint');
    process.kill(-rank0.pid!, 'SIGINT');
    expect(await nextLine()).toBe('interrupted');
    rank0.stdin.write('\n');
    expect(JSON.parse(await nextLine())).toEqual(pids);
  });
});

describe('ranks of a launcher', () => {
  const launchers: [string, (rank: number) => Record<string, string>][] = [
    ['torchrun', (rank) => ({ RANK: `${rank}`, WORLD_SIZE: '3', LOCAL_RANK: `${rank}` })],
    [
      'mpirun',
      (rank) => ({ OMPI_COMM_WORLD_RANK: `${rank}`, OMPI_COMM_WORLD_SIZE: '3', OMPI_COMM_WORLD_LOCAL_RANK: `${rank}` }),
    ],
  ];

  test.each(launchers)('%s: the same command, three times', async (_, env) => {
    const MASTER_PORT = String(await freePort());
    const children = [2, 0, 1].map((rank) =>
      spawn(process.execPath, [helper('launched.mjs')], {
        env: { ...process.env, ...env(rank), MASTER_PORT },
        stdio: ['ignore', 'pipe', 'inherit'],
      }),
    );
    const output = children.map(async (child) => {
      let text = '';
      for await (const chunk of child.stdout) text += chunk;
      return text;
    });
    const codes = await Promise.all(children.map(async (child) => (await once(child, 'exit'))[0] as number));
    expect(codes).toEqual([0, 0, 0]);
    expect(await Promise.all(output)).toEqual(['', '[[1,1],[2,2]]\n', '']);
  });
});
