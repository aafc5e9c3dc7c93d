import type { Socket } from 'node:net';
import { deserialize, serialize } from 'node:v8';
import type { Channel } from '#nano/distributed/channel';
import { FrameReader, writeFrame } from '#nano/distributed/frames';
import { DistributedError } from '#nano/errors';

/** Descriptions of steps take kilobytes. More than this is not a message, but damage. */
export const MAX_MESSAGE_BYTES = 64 * 2 ** 20;

const KEEP_ALIVE_MS = 30_000;
const LINGER_MS = 2_000;

/**
 * A channel over TCP. Each message is one frame, in the format of Node's own structured clone (`v8.serialize`). Typed arrays
 * that arrive are views of their frame, which is theirs alone; so their `buffer` holds more than they do.
 *
 * `v8.deserialize` trusts what it reads. A socket becomes a channel only when the handshake has told whose it is.
 */
export class SocketChannel implements Channel {
  readonly closed: Promise<string>;
  private readonly reader = new FrameReader(MAX_MESSAGE_BYTES);
  private readonly waiting: unknown[] = [];
  private listener: ((message: unknown) => void) | undefined;
  private open = true;
  private resolveClosed!: (reason: string) => void;

  constructor(
    private readonly socket: Socket,
    readonly peer: string,
  ) {
    this.closed = new Promise((resolve) => (this.resolveClosed = resolve));
    socket.setNoDelay(true); // a step waits for its description: do not collect small messages
    socket.setKeepAlive(true, KEEP_ALIVE_MS); // notices a host that lost its power
    socket.on('data', (bytes) => this.receive(bytes)).resume();
    socket.on('error', (error) => this.finish(`the connection broke (${error.message})`));
    for (const event of ['end', 'close']) socket.on(event, () => this.finish('the connection was closed'));
    if (socket.destroyed) this.finish('the connection was closed');
  }

  send(message: unknown): void {
    if (!this.open) return;
    const body = serialize(message);
    if (body.length > MAX_MESSAGE_BYTES) {
      throw new DistributedError(
        `A message to ${this.peer} has ${body.length} bytes; ${MAX_MESSAGE_BYTES} are possible. Send it in parts.`,
      );
    }
    writeFrame(this.socket, body);
  }

  onMessage(listener: (message: unknown) => void): void {
    if (this.listener) throw new Error(`Somebody listens to ${this.peer} already.`);
    this.listener = listener;
    for (const message of this.waiting.splice(0)) listener(message);
  }

  close(): void {
    if (!this.open) return;
    this.finish('it was closed on this side');
    // What was sent before still arrives; then the other side ends, too, unless it hangs.
    this.socket.end();
    setTimeout(() => this.socket.destroy(), LINGER_MS).unref();
  }

  private receive(bytes: Buffer): void {
    let rest = bytes;
    while (this.open && rest.length > 0) {
      let message: unknown;
      try {
        const next = this.reader.next(rest);
        rest = next.rest;
        if (!next.frame) continue;
        message = deserialize(next.frame);
      } catch (error) {
        this.finish(`a damaged message came (${(error as Error).message})`);
        this.socket.destroy();
        return;
      }
      if (this.listener) this.listener(message);
      else this.waiting.push(message);
    }
  }

  /** The first reason counts: an error is followed by the close that it causes. */
  private finish(reason: string): void {
    this.open = false;
    this.resolveClosed(reason);
  }
}
