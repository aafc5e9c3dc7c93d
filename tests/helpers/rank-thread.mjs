// A rank in a thread that goes wrong in the middle of a run, as FAULT says: after so many collectives it throws, exits, or is
// stuck for ever.
import { parentPort, workerData } from 'node:worker_threads';
import { follow } from '#nano/distributed/follower';
import { LocalBarrier } from '#nano/distributed/local-barrier';
import { LocalGroup } from '#nano/distributed/local-group';
import { PortChannel } from '#nano/distributed/threads';

const { rank, worldSize, shared } = workerData;
const [fault, after] = process.env.FAULT.split(' ');
let calls = 0;

class FaultyGroup extends LocalGroup {
  allReduce(x) {
    if (rank === worldSize - 1 && ++calls > Number(after)) {
      if (fault === 'throw') throw new Error('the rank lost its nerve');
      if (fault === 'exit') process.exit(3);
    }
    super.allReduce(x);
  }
}

process.on('exit', (code) =>
  new LocalBarrier(shared, worldSize).end(`Rank ${rank} was lost: its thread ended with code ${code}`),
);
const channel = new PortChannel('rank 0', parentPort, new Promise(() => {}), () => parentPort.close());
await follow(channel, {
  ranksOnHost: worldSize,
  connect: async (backend) => new FaultyGroup(rank, worldSize, shared, backend),
});
