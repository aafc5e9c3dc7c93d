import { Worker } from 'node:worker_threads';
import type { Channel } from '#nano/distributed/channel';
import { inheritedFlags } from '#nano/distributed/inherited-flags';

/** What a rank in a thread is told when it is made. */
export interface ThreadRank {
  readonly rank: number;
  readonly worldSize: number;
  readonly shared: SharedArrayBuffer;
}

/** One end: a worker, seen from its maker, or its own port. */
interface Port {
  postMessage(message: unknown): void;
  on(event: 'message', listener: (message: unknown) => void): unknown;
}

/** A channel between two threads. Serialising and framing are the worker's own. */
export class PortChannel implements Channel {
  private listener: ((message: unknown) => void) | undefined;
  private readonly early: unknown[] = [];

  constructor(
    readonly peer: string,
    private readonly port: Port,
    readonly closed: Promise<string>,
    private readonly end: () => void,
  ) {
    port.on('message', (message) => (this.listener ? this.listener(message) : this.early.push(message)));
  }

  send(message: unknown): void {
    this.port.postMessage(message);
  }

  onMessage(listener: (message: unknown) => void): void {
    this.listener = listener;
    for (const message of this.early.splice(0)) listener(message);
  }

  close(): void {
    this.end();
  }
}

/** Ranks 1 … worldSize - 1 as threads that run `entry`. They don't keep the process alive. */
export function startThreads(entry: string, worldSize: number, shared: SharedArrayBuffer) {
  const workers = Array.from({ length: worldSize - 1 }, (_, i) => {
    const workerData: ThreadRank = { rank: i + 1, worldSize, shared };
    return new Worker(entry, { workerData, execArgv: inheritedFlags(process.execArgv) });
  });
  const channels = workers.map((worker, i) => {
    const closed = new Promise<string>((done) => {
      worker.on('error', (error) => done(error.message));
      worker.on('exit', (code) => done(`its thread ended with code ${code}`));
    });
    return new PortChannel(`Rank ${i + 1}`, worker, closed, () => void worker.terminate());
  });
  const ended = Promise.all(channels.map((channel) => channel.closed));
  return {
    channels,
    /** They end by themselves once told to; a thread that does not is stopped. */
    async stop(): Promise<void> {
      const patience = setTimeout(() => workers.forEach((worker) => void worker.terminate()), 5000);
      await ended;
      clearTimeout(patience);
    },
  };
}
