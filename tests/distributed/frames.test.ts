import { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { FrameReader, writeFrame } from '#nano/distributed/frames';

/** What `writeFrame` puts on the wire. */
function wire(bodies: Uint8Array[]): Buffer {
  const chunks: Uint8Array[] = [];
  const socket = { cork() {}, uncork() {}, write: (bytes: Uint8Array) => chunks.push(bytes) };
  for (const body of bodies) writeFrame(Object.assign(new EventEmitter(), socket) as unknown as Socket, body);
  return Buffer.concat(chunks);
}

function readAll(reader: FrameReader, chunks: Buffer[]): Buffer[] {
  const frames: Buffer[] = [];
  for (const chunk of chunks) {
    for (let rest = chunk; rest.length > 0; ) {
      const next = reader.next(rest);
      if (next.frame) frames.push(next.frame);
      rest = next.rest;
    }
  }
  return frames;
}

const body = fc.uint8Array({ minLength: 1, maxLength: 40 });

test('frames come out whole and in order, wherever the stream is cut', () => {
  fc.assert(
    fc.property(fc.array(body), fc.array(fc.nat({ max: 500 })), (bodies, cuts) => {
      const bytes = wire(bodies);
      const at = [0, ...cuts.map((cut) => Math.min(cut, bytes.length)), bytes.length].sort((a, b) => a - b);
      const chunks = at.slice(1).map((end, i) => bytes.subarray(at[i], end));
      const frames = readAll(new FrameReader(40), chunks);
      expect(frames.map((frame) => [...frame])).toEqual(bodies.map((bytes) => [...bytes]));
    }),
  );
});

test('a frame is memory of its own, aligned for any typed array', () => {
  const bytes = wire([Uint8Array.of(1, 2, 3), Uint8Array.of(4)]);
  const [first, second] = readAll(new FrameReader(8), [bytes]);
  bytes.fill(0);
  expect([...first, ...second]).toEqual([1, 2, 3, 4]);
  expect([first.byteOffset, second.byteOffset]).toEqual([0, 0]);
});

test.each([
  ['HTTP', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
  ['TLS', Buffer.from([0x16, 0x03, 0x01, 0x02, 0x00, 0x01])],
  ['zeros', Buffer.alloc(16)],
  ['one byte too many', wire([new Uint8Array(4097)])],
])('what is not a frame is refused by its header: %s', (_, bytes) => {
  expect(() => readAll(new FrameReader(4096), [bytes])).toThrow(/bytes was announced, and 1 to 4096 are possible/);
});
