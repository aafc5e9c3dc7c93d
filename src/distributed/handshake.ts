import type { Socket } from 'node:net';
import { hostname } from 'node:os';
import { FrameReader, writeFrame } from '#nano/distributed/frames';
import type { RankInfo } from '#nano/distributed/rank-env';

// The first words on a connection: a rank says hello to rank 0, which answers when all ranks have come. Until then it may
// be anybody: a port scanner, a browser, a rank of another run. So these frames are short, and JSON, which is safe to parse.
const MAX_HELLO_BYTES = 4096;

/** To be raised when what ranks say to each other changes. The engine's decisions must be equal too: hence Node's version. */
export const VERSION = `nano-vllm-ts ranks 1, Node ${process.versions.node.split('.')[0]}`;

export interface Hello {
  readonly version: string;
  readonly rank: number;
  readonly worldSize: number;
  readonly token: string;
  readonly hostname: string;
  readonly pid: number;
}

/** `refused` says why, for people. */
export type Answer = { readonly welcome: true } | { readonly refused: string };

export function helloFrom({ rank, worldSize, token }: RankInfo): Hello {
  return { version: VERSION, rank, worldSize, token, hostname: hostname(), pid: process.pid };
}

export function sendJson(socket: Socket, value: Hello | Answer): void {
  writeFrame(socket, Buffer.from(JSON.stringify(value)));
}

/**
 * Waits for one frame of JSON. What follows it stays in the socket, which is left paused.
 * @throws Error saying what came instead. The socket is still open then.
 */
export function receiveJson(socket: Socket, timeoutMs: number): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const reader = new FrameReader(MAX_HELLO_BYTES);
    const timer = setTimeout(() => settle(new Error(`nothing came for ${timeoutMs / 1000} s`)), timeoutMs);
    const settle = (error?: Error, value?: unknown) => {
      clearTimeout(timer);
      socket.off('data', onData).off('end', onEnd).off('error', settle).off('close', onEnd);
      if (error) reject(error);
      else resolve(value);
    };
    const onEnd = () => settle(new Error('the connection was closed'));
    const onData = (bytes: Buffer) => {
      try {
        let rest = bytes;
        let frame: Buffer | undefined;
        while (!frame && rest.length > 0) ({ frame, rest } = reader.next(rest));
        if (!frame) return;
        socket.pause();
        if (rest.length > 0) socket.unshift(rest);
        settle(undefined, JSON.parse(frame.toString()));
      } catch (error) {
        settle(error as Error);
      }
    };
    socket.on('data', onData).on('end', onEnd).on('error', settle).on('close', onEnd);
  });
}

export function isHello(value: unknown): value is Hello {
  const { version, rank, worldSize, token, hostname, pid } = (value ?? {}) as Partial<Record<keyof Hello, unknown>>;
  return (
    [version, token, hostname].every((field) => typeof field === 'string') &&
    [rank, worldSize, pid].every((field) => Number.isSafeInteger(field))
  );
}

export function isAnswer(value: unknown): value is Answer {
  const answer = (value ?? {}) as Partial<Record<'welcome' | 'refused', unknown>>;
  return answer.welcome === true || typeof answer.refused === 'string';
}
