import { Worker } from 'node:worker_threads';
import type { Channel } from '#nano/distributed/channel';

/**
 * Tells a forked rank that it has a lifeline: a pipe of this number, whose other end only rank 0 holds. Nothing is ever
 * written to it. Whatever way rank 0 ends, SIGKILL included, the system closes its end.
 */
export const LIFELINE_FD = 'NANOVLLM_LIFELINE_FD';

// A rank whose event loop runs sees its channel close, and ends in order. This is for one that does not.
const GRACE_MS = 1_000;

/**
 * In a thread of its own, with an event loop of its own: the main thread may be stuck in native code, waiting for ranks that
 * will never come, and then no JavaScript runs there any more. Text, so that it needs no file beside this one.
 */
const WATCH = `
  const { Socket } = require('node:net');
  const { workerData } = require('node:worker_threads');
  const kill = () => process.kill(process.pid, 'SIGKILL');
  new Socket({ fd: workerData.fd })
    .on('error', () => {})
    .on('close', () => setTimeout(kill, workerData.graceMs))
    .resume();
`;

/**
 * To be called first by a forked rank: it then ends with rank 0, and not before. Ctrl-C in a terminal interrupts every
 * process of the command; what it means is for rank 0 to decide.
 */
export function liveAsLongAsRank0(env: NodeJS.ProcessEnv = process.env): void {
  const fd = env[LIFELINE_FD];
  if (fd === undefined) return; // a launcher started this rank, and ends it
  process.on('SIGINT', () => {});
  new Worker(WATCH, { eval: true, execArgv: [], workerData: { fd: Number(fd), graceMs: GRACE_MS } }).unref();
}

/** For a rank whose work is over when rank 0 is gone. */
export function exitWhenLost(channel: Channel): void {
  channel.closed.then(() => process.exit(1));
}
