import { once } from 'node:events';
import type { Socket } from 'node:net';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { MAX_MESSAGE_BYTES, SocketChannel } from '#nano/distributed/socket-channel';
import { DistributedError } from '#nano/errors';
import { socketPair } from '../helpers/sockets';

let sockets: [Socket, Socket];
let near: SocketChannel;
let far: SocketChannel;

beforeEach(async () => {
  sockets = await socketPair();
  near = new SocketChannel(sockets[0], 'far');
  far = new SocketChannel(sockets[1], 'near');
});

afterEach(() => {
  for (const socket of sockets) socket.destroy();
});

/** The next messages, as they come. */
function inbox(channel: SocketChannel): () => Promise<unknown> {
  const came: unknown[] = [];
  let wake = () => {};
  channel.onMessage((message) => {
    came.push(message);
    wake();
  });
  return async () => {
    while (came.length === 0) await new Promise<void>((resolve) => (wake = resolve));
    return came.shift();
  };
}

const typedArray = fc.oneof(
  fc.int32Array(),
  fc.uint8Array(),
  fc.float32Array(),
  fc.float64Array(),
  fc.bigUint64Array(),
  fc.uint16Array().map((array) => array.subarray(1)), // a view
);
const message = fc.letrec((tie) => ({
  any: fc.oneof(
    { maxDepth: 3 },
    typedArray,
    fc.oneof(fc.string(), fc.double(), fc.boolean(), fc.bigInt(), fc.constant(null), fc.constant(undefined)),
    fc.array(tie('any')),
    fc.dictionary(fc.string(), tie('any'), { noNullPrototype: true }),
  ),
})).any;

test('messages arrive equal, in order and once', async () => {
  const next = inbox(far);
  await fc.assert(
    fc.asyncProperty(fc.array(message, { maxLength: 5 }), async (messages) => {
      for (const value of messages) near.send(value);
      for (const value of messages) expect(await next()).toStrictEqual(value);
    }),
    { numRuns: 300 },
  );
});

test('a message is what it was when it was sent, and large ones come too', async () => {
  const next = inbox(far);
  const step = { words: Int32Array.from({ length: 1 << 20 }, (_, i) => i * 7) };
  const copy = step.words.slice();
  near.send(step);
  step.words.fill(0);
  const { words } = (await next()) as typeof step;
  expect(Buffer.compare(Buffer.from(words.buffer, words.byteOffset, words.byteLength), Buffer.from(copy.buffer))).toBe(
    0,
  );
});

test('both sides speak, and what came before the listener waits for it', async () => {
  near.send('early');
  far.send('back');
  expect(await inbox(near)()).toBe('back');
  expect(await inbox(far)()).toBe('early');
  expect(() => near.onMessage(() => {})).toThrow('Somebody listens to far already');
});

test('what was sent before closing arrives; then both sides are closed, and nothing is sent any more', async () => {
  const next = inbox(far);
  for (let i = 0; i < 100; i++) near.send(i);
  near.close();
  near.close();
  near.send('too late');
  for (let i = 0; i < 100; i++) expect(await next()).toBe(i);
  expect(await near.closed).toBe('it was closed on this side');
  expect(await far.closed).toBe('the connection was closed');
  far.send('nobody hears this');
  far.close();
});

test('a connection that breaks is closed with the reason', async () => {
  sockets[1].resetAndDestroy();
  expect(await near.closed).toBe('the connection broke (read ECONNRESET)');
});

test('a socket that is gone already', async () => {
  sockets[1].destroy();
  await once(sockets[1], 'close');
  expect(await new SocketChannel(sockets[1], 'gone').closed).toBe('the connection was closed');
});

test.each([
  ['a length nobody sends', Buffer.from('ffffffff', 'hex'), /4294967295 bytes was announced, and 1 to 67108864/],
  ['a body that is no message', Buffer.from('04000000deadbeef', 'hex'), /^a damaged message came \(.+\)$/],
])('damage closes the channel: %s', async (_, bytes, reason) => {
  near.send('before');
  sockets[0].write(bytes);
  near.send('behind');
  expect(await far.closed).toMatch(reason);
  const came: unknown[] = [];
  far.onMessage((value) => came.push(value));
  expect(came).toEqual(['before']);
  await near.closed;
});

test('a message that would be refused is not sent', () => {
  expect(() => near.send(new Uint8Array(MAX_MESSAGE_BYTES))).toThrow(DistributedError);
});
