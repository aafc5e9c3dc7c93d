import type { Socket } from 'node:net';

// A stream of bytes has no message boundaries: TCP may deliver half a message, or three at once. So every message becomes
// a frame: the length of its body in four bytes, little-endian, then the body.
const HEADER_BYTES = 4;

/** Thrown for a frame that nobody who speaks this protocol would send. */
export class FrameError extends Error {}

/** Sends `body` as one frame. */
export function writeFrame(socket: Socket, body: Uint8Array): void {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32LE(body.byteLength);
  socket.cork(); // one packet for both, where they fit
  socket.write(header);
  socket.write(body);
  socket.uncork();
}

/** Puts frames together again, however the stream was cut. */
export class FrameReader {
  private header = Buffer.alloc(HEADER_BYTES);
  private body: Buffer | undefined;
  /** Bytes of the header, or of the body once there is one, that have come. */
  private filled = 0;

  /** @param limit the longest body. It bounds what a sender can make us allocate. */
  constructor(private readonly limit: number) {}

  /**
   * Takes bytes up to the end of the frame.
   * @returns the body, in memory of its own, once it is complete; and the bytes that belong to what follows.
   * @throws FrameError when the header announces an impossible length. There is no way to go on after that.
   */
  next(bytes: Buffer): { frame?: Buffer; rest: Buffer } {
    const rest = this.body ? bytes : this.readHeader(bytes);
    if (!this.body) return { rest };
    const taken = rest.copy(this.body, this.filled);
    this.filled += taken;
    if (this.filled < this.body.length) return { rest: rest.subarray(taken) };
    const frame = this.body;
    this.body = undefined;
    this.filled = 0;
    return { frame, rest: rest.subarray(taken) };
  }

  private readHeader(bytes: Buffer): Buffer {
    const taken = bytes.copy(this.header, this.filled);
    this.filled += taken;
    if (this.filled === HEADER_BYTES) {
      const length = this.header.readUInt32LE();
      if (length === 0 || length > this.limit) {
        throw new FrameError(`a message of ${length} bytes was announced, and 1 to ${this.limit} are possible`);
      }
      this.body = Buffer.allocUnsafeSlow(length); // not from Node's pool: its first byte is aligned for any typed array
      this.filled = 0;
    }
    return bytes.subarray(taken);
  }
}
