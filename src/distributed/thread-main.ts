// A rank in a thread: what `startThreads` runs.
import { parentPort, workerData } from 'node:worker_threads';
import { follow } from '#nano/distributed/follower';
import { LocalBarrier } from '#nano/distributed/local-barrier';
import { type HostMemory, LocalGroup } from '#nano/distributed/local-group';
import { PortChannel, type ThreadRank } from '#nano/distributed/threads';

const { rank, worldSize, shared } = workerData as ThreadRank;
const port = parentPort;
if (!port) throw new Error('This is no program: `startThreads` runs it.');

// However this thread ends, the others must not wait for it: nothing but this tells a thread that waits in a collective.
let isDone = false;
process.on('exit', (code) => {
  if (!isDone) new LocalBarrier(shared, worldSize).end(`Rank ${rank} was lost: its thread ended with code ${code}`);
});

const closed = new Promise<string>(() => {}); // rank 0's thread ends last, and this one with it
const channel = new PortChannel('rank 0', port, closed, () => port.close());
await follow(channel, {
  ranksOnHost: worldSize,
  connect: async (backend) => new LocalGroup(rank, worldSize, shared, backend as unknown as HostMemory),
});
isDone = true;
port.close();
