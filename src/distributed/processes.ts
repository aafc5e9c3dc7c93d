import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Channel } from '#nano/distributed/channel';
import { inheritedFlags } from '#nano/distributed/inherited-flags';
import { Rendezvous, type World } from '#nano/distributed/rendezvous';
import { LIFELINE_FD } from '#nano/distributed/watchdog';
import { DistributedError } from '#nano/errors';

export interface ForkOptions {
  readonly worldSize: number;
  /** The JavaScript file that ranks 1 … worldSize - 1 run. It should begin with `liveAsLongAsRank0`. */
  readonly entry: string;
  readonly args?: readonly string[];
  /** Added to this process's environment. */
  readonly env?: Readonly<Record<string, string>>;
  readonly timeoutSeconds?: number;
}

export interface ForkedRanks {
  /** One for each rank from 1 on. Their `closed` says how the process ended. */
  readonly channels: readonly Channel[];
  /** Closes the channels, on which the ranks should end, and kills those that do not. Then none is left. */
  stop(): Promise<void>;
}

const STOP_MS = 5_000;

interface Child {
  readonly process: ChildProcess;
  /** Resolves when it is gone: 'exit code 1', 'SIGKILL'. */
  readonly ended: Promise<string>;
}

/**
 * Starts the other ranks on this host and meets them, at a port the system chooses and with a token nobody else knows: any
 * number of runs on a machine do not notice each other.
 * @throws DistributedError when one ends before it has come, or does not come. No process is left then.
 */
export async function forkRanks(options: ForkOptions): Promise<ForkedRanks> {
  const { worldSize, timeoutSeconds = 60 } = options;
  const token = randomBytes(16).toString('hex');
  const world = { worldSize, masterAddr: '127.0.0.1', masterPort: 0, token };
  const meeting = await Rendezvous.open(world, { timeoutSeconds });
  const children: Child[] = [];
  try {
    for (let rank = 1; rank < worldSize; rank++) {
      const child = startRank(rank, { ...world, masterPort: meeting.port }, options);
      child.ended.then((how) =>
        meeting.fail(
          new DistributedError(`Rank ${rank} of ${worldSize} ended while starting (${how}). What it printed says why.`),
        ),
      );
      children.push(child);
    }
    const channels = (await meeting.channels).map((channel, i) => closedWithReason(channel, children[i].ended));
    let stopping: Promise<void> | undefined;
    return { channels, stop: () => (stopping ??= stop(channels, children)) };
  } catch (error) {
    meeting.fail(error as Error); // where a process could not even be started
    await kill(children);
    throw error;
  }
}

function startRank(rank: number, world: World, { entry, args = [], env }: ForkOptions): Child {
  const child = spawn(process.execPath, [...inheritedFlags(process.execArgv), entry, ...args], {
    // Standard output is for what rank 0 has to say. The last is the lifeline (see watchdog.ts).
    stdio: ['ignore', 2, 2, 'pipe'],
    env: {
      ...process.env,
      ...env,
      RANK: String(rank),
      LOCAL_RANK: String(rank),
      WORLD_SIZE: String(world.worldSize),
      MASTER_ADDR: world.masterAddr,
      MASTER_PORT: String(world.masterPort),
      NANOVLLM_TOKEN: world.token,
      [LIFELINE_FD]: '3',
    },
  });
  child.stdio[3]?.on('error', () => {}); // how the process ended says more
  const ended = new Promise<string>((resolve) => {
    child.on('exit', (code, signal) => resolve(signal ?? `exit code ${code}`));
    child.on('error', (error) => resolve(error.message)); // it could not be started
  });
  return { process: child, ended };
}

/** A process that dies takes its connection with it: how it died is the better reason. */
function closedWithReason(channel: Channel, ended: Promise<string>): Channel {
  const soon = (reason: string) => sleep(1_000, reason, { ref: false });
  const how = ended.then((text) => `the process ended (${text})`);
  return {
    peer: channel.peer,
    send: (message) => channel.send(message),
    onMessage: (listener) => channel.onMessage(listener),
    close: () => channel.close(),
    closed: channel.closed.then((reason) => Promise.race([how, soon(reason)])),
  };
}

async function stop(channels: readonly Channel[], children: readonly Child[]): Promise<void> {
  for (const channel of channels) channel.close();
  const inTime = new AbortController();
  const allEnded = Promise.all(children.map(({ ended }) => ended));
  await Promise.race([allEnded, sleep(STOP_MS, undefined, { signal: inTime.signal }).catch(() => {})]);
  inTime.abort(); // or the timer would keep this process alive
  await kill(children);
}

async function kill(children: readonly Child[]): Promise<void> {
  for (const child of children) child.process.kill('SIGKILL'); // does nothing to one that has ended
  await Promise.all(children.map(({ ended }) => ended));
}
