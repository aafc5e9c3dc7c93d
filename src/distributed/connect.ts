import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Channel } from '#nano/distributed/channel';
import { type Answer, helloFrom, isAnswer, receiveJson, sendJson } from '#nano/distributed/handshake';
import { isLoopback, type RankInfo } from '#nano/distributed/rank-env';
import { SocketChannel } from '#nano/distributed/socket-channel';
import { DistributedError } from '#nano/errors';

const PAUSE_MS = 200;
// Rank 0 gives up first, and its reason says more than ours would.
const PATIENCE_MS = 10_000;

/**
 * The other ranks' side of `Rendezvous`: tries until rank 0 listens, says hello, and returns when all ranks have come.
 * @throws DistributedError when rank 0 cannot be reached for so long, or refuses.
 */
export async function connectToRank0(info: RankInfo, timeoutSeconds = 300): Promise<Channel> {
  const socket = await reach(info, timeoutSeconds);
  const where = `${info.masterAddr}:${info.masterPort}`;
  let answer: Answer;
  try {
    sendJson(socket, helloFrom(info));
    const received = await receiveJson(socket, timeoutSeconds * 1000 + PATIENCE_MS);
    if (!isAnswer(received)) throw new Error('it answered something else');
    answer = received;
  } catch (cause) {
    socket.destroy();
    throw new DistributedError(
      `Rank ${info.rank} said hello to ${where} and was not welcomed: ${(cause as Error).message}. If rank 0 runs there, it ` +
        'has ended, and what it printed says why; if another program has that port, give all ranks another MASTER_PORT.',
      { cause },
    );
  }
  if ('welcome' in answer) return new SocketChannel(socket, `rank 0 (${where})`);
  socket.destroy();
  throw new DistributedError(`Rank 0 at ${where} does not go on with rank ${info.rank}. ${answer.refused}`);
}

async function reach(info: RankInfo, seconds: number): Promise<Socket> {
  const deadline = Date.now() + seconds * 1000;
  while (true) {
    const socket = connect(info.masterPort, info.masterAddr);
    try {
      const left = Math.max(1, deadline - Date.now());
      await once(socket, 'connect', { signal: AbortSignal.timeout(left) });
      socket.on('error', () => {}); // without a listener it would end the process; the close that follows says enough
      return socket;
    } catch (cause) {
      socket.on('error', () => {}).destroy();
      // Rank 0 may not listen yet, its host's name not be known yet: only time tells which errors stay.
      if (Date.now() + PAUSE_MS >= deadline) throw explain(info, seconds, cause as NodeJS.ErrnoException);
      await sleep(PAUSE_MS);
    }
  }
}

function explain(info: RankInfo, seconds: number, cause: NodeJS.ErrnoException): DistributedError {
  const { rank, localRank, masterAddr, masterPort } = info;
  let remedy = 'Is rank 0 running, with the same MASTER_ADDR and MASTER_PORT?';
  if (!isLoopback(masterAddr)) remedy += ' Does a firewall between the hosts let this port through?';
  else if (localRank !== rank) remedy = `Rank 0 is on another host: set MASTER_ADDR to its name, not ${masterAddr}.`;
  else remedy += " If it runs on another host, set MASTER_ADDR to that host's name.";
  return new DistributedError(
    `Rank ${rank} could not reach rank 0 at ${masterAddr}:${masterPort} within ${seconds} s ` +
      `(${cause.code ?? cause.message}). ${remedy}`,
    { cause },
  );
}
