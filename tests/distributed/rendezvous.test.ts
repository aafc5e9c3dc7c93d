import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Channel } from '#nano/distributed/channel';
import { connectToRank0 } from '#nano/distributed/connect';
import { writeFrame } from '#nano/distributed/frames';
import { type Hello, helloFrom, receiveJson, VERSION } from '#nano/distributed/handshake';
import type { RankInfo } from '#nano/distributed/rank-env';
import { Rendezvous, type RendezvousOptions } from '#nano/distributed/rendezvous';
import { DistributedError } from '#nano/errors';
import { freePort } from '../helpers/sockets';

const TOKEN = 'the token';
let port: number;
const ends: (() => void)[] = [];

beforeEach(async () => {
  port = await freePort();
});

afterEach(() => {
  for (const end of ends.splice(0)) end();
});

const world = (worldSize: number) => ({ worldSize, masterAddr: '127.0.0.1', masterPort: port, token: TOKEN });
const rank = (rank: number, worldSize: number): RankInfo => ({ ...world(worldSize), rank, localRank: rank });

async function open(worldSize: number, options?: RendezvousOptions): Promise<Rendezvous> {
  const meeting = await Rendezvous.open(world(worldSize), options);
  ends.push(() => meeting.fail(new DistributedError('the test is over')));
  return meeting;
}

/** What a promise fails with: text for people. */
async function failure(promise: Promise<unknown>): Promise<string> {
  const error = await promise.catch((e: unknown) => e);
  expect(error).toBeInstanceOf(DistributedError);
  return (error as Error).message;
}

/** A connection whose other end nobody has checked yet. */
async function stranger(bytes?: string | Buffer): Promise<Socket> {
  const socket = connect(port, '127.0.0.1').on('error', () => {});
  ends.push(() => socket.destroy());
  await once(socket, 'connect');
  if (bytes) socket.write(bytes);
  return socket;
}

/** A connection that says a hello of our making; gives the answer. */
async function says(hello: object): Promise<unknown> {
  const socket = await stranger();
  writeFrame(socket, Buffer.from(JSON.stringify(hello)));
  return receiveJson(socket, 20_000);
}

/** Both ends live in this event loop: after some turns of it, what was sent has been read. */
async function turns(): Promise<void> {
  for (let i = 0; i < 100; i++) await new Promise((resolve) => setImmediate(resolve));
}

function firstMessage(channel: Channel): Promise<unknown> {
  return new Promise((resolve) => channel.onMessage(resolve));
}

describe('all meet', () => {
  test.each([[[1, 2, 3]], [[3, 1, 2]], [[2, 3, 1]]])('who come as %j', async (order) => {
    const meeting = await open(4);
    const coming = order.map((r) => connectToRank0(rank(r, 4)));
    const channels = await meeting.channels;
    expect(channels.map(({ peer }) => peer.replace(/ .*?,/, (text) => text.slice(0, 2)))).toEqual([
      `rank 1 pid ${process.pid})`,
      `rank 2 pid ${process.pid})`,
      `rank 3 pid ${process.pid})`,
    ]);
    // The first message may follow the welcome closely.
    channels.forEach((channel, i) => channel.send(i + 1));
    const others = await Promise.all(coming);
    expect(await Promise.all(others.map(firstMessage))).toEqual(order);
    others.forEach((channel, i) => channel.send({ from: order[i] }));
    expect(await Promise.all(channels.map(firstMessage))).toEqual([1, 2, 3].map((from) => ({ from })));
    for (const channel of channels) channel.close();
    await Promise.all(others.map(({ closed }) => closed));
  });

  test('also with ranks that are there before rank 0', async () => {
    const early = connectToRank0(rank(1, 2));
    await new Promise((resolve) => setTimeout(resolve, 300));
    const [channel] = await (await open(2)).channels;
    (await early).close();
    expect(await channel.closed).toBe('the connection was closed');
  });

  test('on several hosts: rank 0 listens on all interfaces when MASTER_ADDR is not loopback', async () => {
    const meeting = await Rendezvous.open({ ...world(2), masterAddr: 'node7' });
    const other = await connectToRank0(rank(1, 2));
    expect(await meeting.channels).toHaveLength(1);
    other.close();
  });

  test('and the port is free again, for the next run', async () => {
    for (let run = 0; run < 3; run++) {
      const meeting = await Rendezvous.open(world(2));
      const other = await connectToRank0(rank(1, 2));
      for (const channel of await meeting.channels) channel.close();
      await other.closed;
    }
  });
});

describe('strangers are shut out, and the run goes on:', () => {
  test.each<[string, (socket: Socket) => void]>([
    ['a browser', (socket) => socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')],
    ['zeros', (socket) => socket.write(Buffer.alloc(100))],
    ['a frame that is not JSON', (socket) => writeFrame(socket, Buffer.from('hello'))],
    ['JSON that is no hello', (socket) => writeFrame(socket, Buffer.from('{"rank": 1, "__proto__": null}'))],
    ['null', (socket) => writeFrame(socket, Buffer.from('null'))],
    ['a hello longer than one is', (socket) => writeFrame(socket, Buffer.alloc(5000, 32))],
    ['silence', () => {}],
    ['half a header', (socket) => socket.write(Buffer.alloc(2))],
    ['half a hello', (socket) => socket.write(Buffer.from('40000000227b', 'hex'))],
  ])('%s', async (_, behave) => {
    const meeting = await open(2, { helloSeconds: 0.3 });
    const socket = await stranger();
    behave(socket);
    await once(socket.resume(), 'close');
    const other = await connectToRank0(rank(1, 2));
    expect(await meeting.channels).toHaveLength(1);
    other.close();
  });

  test('who breaks off', async () => {
    const meeting = await open(2);
    (await stranger('half')).resetAndDestroy();
    (await stranger()).destroy();
    const slow = await stranger();
    const other = await connectToRank0(rank(1, 2));
    expect(await meeting.channels).toHaveLength(1);
    await once(slow.resume(), 'close'); // nobody can come any more
    other.close();
  });

  test('a rank of another run, which is told', async () => {
    const meeting = await open(2);
    const message = await failure(connectToRank0({ ...rank(1, 2), token: '' }));
    expect(message).toMatch(
      /^Rank 0 at 127\.0\.0\.1:\d+ does not go on with rank 1\. NANOVLLM_TOKEN differs: this is another/,
    );
    const other = await connectToRank0(rank(1, 2));
    expect(await meeting.channels).toHaveLength(1);
    other.close();
  });
});

describe('a contradiction ends the run, and all are told:', () => {
  const hello = (changes: Partial<Hello>) => ({ ...helloFrom(rank(2, 3)), hostname: 'b', pid: 7, ...changes });

  test.each<[string, Partial<Hello>, string]>([
    [
      'another world size',
      { worldSize: 4 },
      'rank 2 (b, pid 7) was started with WORLD_SIZE 4, rank 0 with 3. Start all with the same one.',
    ],
    [
      'another version',
      { version: 'nano-vllm-ts ranks 0, Node 18' },
      `rank 2 (b, pid 7) runs 'nano-vllm-ts ranks 0, Node 18', rank 0 runs '${VERSION}'. Install the same version on all hosts.`,
    ],
    [
      'an impossible rank',
      { rank: 3 },
      'rank 3 (b, pid 7) came to rank 0; ranks from 1 to 2 were expected. Give each process a RANK of its own.',
    ],
    [
      'a second rank 0',
      { rank: 0 },
      'rank 0 (b, pid 7) came to rank 0; ranks from 1 to 2 were expected. Give each process a RANK of its own.',
    ],
  ])('%s', async (_, changes, reason) => {
    const meeting = await open(3);
    const innocent = failure(connectToRank0(rank(1, 3)));
    await turns();
    expect(await says(hello(changes))).toEqual({ refused: reason });
    expect(await failure(meeting.channels)).toBe(reason);
    expect(await innocent).toContain(reason);
  });

  test('a rank twice', async () => {
    const meeting = await open(3);
    const first = failure(connectToRank0(rank(1, 3)));
    const second = failure(connectToRank0(rank(1, 3)));
    const reason =
      /Two processes say that they are rank 1: rank 1 \(.*, pid \d+\) and rank 1 \(.*\)\. Give each a RANK/;
    expect(await failure(meeting.channels)).toMatch(reason);
    expect(await first).toMatch(reason);
    expect(await second).toMatch(reason);
  });

  test('a rank that leaves before all are there', async () => {
    const meeting = await open(3);
    const socket = await stranger();
    writeFrame(socket, Buffer.from(JSON.stringify(hello({}))));
    await turns();
    socket.end();
    expect(await failure(meeting.channels)).toBe(
      'rank 2 (b, pid 7) left before all ranks had come. What it printed says why.',
    );
  });
});

describe('says what to do', () => {
  test('when ranks never come', async () => {
    const meeting = await open(4, { timeoutSeconds: 1.5 });
    const there = failure(connectToRank0(rank(2, 4)));
    const reason = `Ranks 1 and 3 of 4 did not come to 127.0.0.1:${port} within 1.5 s. Start all ranks, with the same`;
    expect(await failure(meeting.channels)).toContain(reason);
    expect(await there).toContain(reason);
    await (await open(2)).fail(new DistributedError('The port was free again.'));
  });

  test('when the port is in use', async () => {
    await open(2);
    expect(await failure(Rendezvous.open(world(2)))).toBe(
      `Port ${port}, where the other ranks should meet rank 0, is in use. Give all ranks another MASTER_PORT; or end what ` +
        'has it: another run, or one that was not ended?',
    );
  });

  test.each([
    [{}, /Is rank 0 running, .* If it runs on another host, set MASTER_ADDR/],
    [{ localRank: 0 }, /Rank 0 is on another host: set MASTER_ADDR to its name, not 127\.0\.0\.1\./],
    [{ masterAddr: 'no-such-host.invalid' }, /Does a firewall between the hosts let this port through\?/],
  ])('when rank 0 cannot be reached: %j', async (changes, remedy) => {
    const message = await failure(connectToRank0({ ...rank(1, 2), ...changes }, 0.5));
    expect(message).toMatch(/^Rank 1 could not reach rank 0 at \S+:\d+ within 0\.5 s \([A-Z_]+\)\. /);
    expect(message).toMatch(remedy);
  });

  test.each<[string, (socket: Socket) => void, RegExp]>([
    ['answers in another language', (socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'), /bytes was announced/],
    ['answers with other JSON', (socket) => writeFrame(socket, Buffer.from('{}')), /it answered something else/],
    ['hangs up', (socket) => socket.end(), /the connection was closed/],
  ])('when what listens there is not rank 0: it %s', async (_, behave, problem) => {
    const other = createServer((socket) => behave(socket.on('error', () => {}))).listen(port, '127.0.0.1');
    ends.push(() => other.close());
    const message = await failure(connectToRank0(rank(1, 2)));
    expect(message).toMatch(/^Rank 1 said hello to 127\.0\.0\.1:\d+ and was not welcomed: /);
    expect(message).toMatch(problem);
    expect(message).toContain('another MASTER_PORT');
  });
});
