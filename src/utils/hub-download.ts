import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type FileHandle, mkdir, open, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { HubError } from '#nano/errors';

export interface Download {
  /** For messages: 'model.safetensors'. */
  readonly file: string;
  readonly url: string;
  readonly size: number;
  /** SHA-256 of a large file (64 hexadecimal digits); git's SHA-1 of a small one (40). */
  readonly hash: string;
}

/** How to talk to the server. */
export interface Transport {
  fetch(url: string, init: RequestInit): Promise<Response>;
  /** Turns a response that is neither a success nor worth another try into an error. */
  refused(response: Response): Promise<HubError>;
}

// Tries in a row that bring nothing new. A large download may be interrupted more often, as long as it gets on.
const TRIES = 4;
const FIRST_PAUSE_MS = 250;

/**
 * Downloads into `target`, through `target.incomplete`. What an earlier try or run left there is kept:
 * the server is asked for the rest only (a Range request). The content is checked against its hash before
 * it gets its final name, so a file under that name is always whole.
 * @throws HubError when the server refuses, the connection keeps breaking, or the content is damaged.
 *   File system errors, a full disk among them, come as they are.
 */
export async function downloadResumable(
  download: Download,
  target: string,
  transport: Transport,
  onBytes: (done: number) => void,
): Promise<void> {
  const partial = `${target}.incomplete`;
  await mkdir(path.dirname(target), { recursive: true });
  const handle = await open(partial, 'a');
  try {
    await fetchAll(download, handle, transport, onBytes);
  } finally {
    await handle.close();
  }
  if (!(await hasHash(partial, download))) {
    await rm(partial);
    throw new HubError(`${download.file} arrived damaged (its hash is not ${download.hash}). Download it again.`);
  }
  await rename(partial, target);
}

async function fetchAll(
  download: Download,
  handle: FileHandle,
  transport: Transport,
  onBytes: (done: number) => void,
): Promise<void> {
  let most = (await handle.stat()).size;
  // More than the whole file: that was another file.
  if (most > download.size) {
    await handle.truncate(0);
    most = 0;
  }
  let done = most;
  let failures = 0;
  while (done < download.size) {
    let problem = 'the response ended early';
    try {
      await fetchRest(download, done, handle, transport, onBytes);
    } catch (error) {
      if (!isNetworkError(error)) throw error;
      problem = describeNetworkError(error);
    }
    done = (await handle.stat()).size;
    failures = done > most ? 0 : failures + 1;
    most = Math.max(most, done);
    if (failures === TRIES) {
      throw new HubError(
        `The download of ${download.file} stopped at ${done} of ${download.size} bytes: ${problem}. ` +
          'Start again to continue from there.',
      );
    }
    if (done < download.size) await sleep(FIRST_PAUSE_MS * 2 ** failures);
  }
  if (done > download.size) {
    await handle.truncate(0);
    throw new HubError(`${download.file} should have ${download.size} bytes; the server sent more. Try again later.`);
  }
}

/** Appends what is missing, as far as the connection lasts. */
async function fetchRest(
  { url, size }: Download,
  from: number,
  handle: FileHandle,
  transport: Transport,
  onBytes: (done: number) => void,
): Promise<void> {
  // identity: ranges count the bytes of the file, not of a compressed form of it.
  const headers: Record<string, string> = { 'Accept-Encoding': 'identity' };
  if (from > 0) headers.Range = `bytes=${from}-`;
  const response = await transport.fetch(url, { headers });
  let done = from;
  if (from > 0 && !continuesAt(response, from)) {
    // The server sends the whole file (200) or does not know the range (416): forget what we have.
    if (response.ok || response.status === 416) {
      await handle.truncate(0);
      done = 0;
    }
    if (response.status === 416) return void (await response.body?.cancel());
  }
  if (response.status === 429 || response.status >= 500) {
    await response.body?.cancel();
    throw new TemporaryError(`the server answers ${response.status}`);
  }
  if (!response.ok) throw await transport.refused(response);
  onBytes(done);
  // The web's type of a stream does not say so, but in Node one can be iterated.
  const body = response.body as unknown as AsyncIterable<Uint8Array> | null;
  for await (const chunk of body ?? []) {
    await handle.appendFile(chunk);
    done += chunk.byteLength;
    onBytes(done);
    if (done > size) return;
  }
}

/** Whether a partial response begins where we asked it to: "Content-Range: bytes 100-199/200". */
function continuesAt(response: Response, from: number): boolean {
  const start = /^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '')?.[1];
  return response.status === 206 && (start === undefined || Number(start) === from);
}

class TemporaryError extends Error {}

/** fetch throws a TypeError for everything that goes wrong on the wire, with the reason as its cause. */
export function isNetworkError(error: unknown): boolean {
  return (error instanceof TypeError && error.cause !== undefined) || error instanceof TemporaryError;
}

export function describeNetworkError(error: unknown): string {
  const { message, cause } = error as Error & { cause?: { code?: string; message?: string } };
  return cause?.code ?? cause?.message ?? message;
}

async function hasHash(file: string, { hash, size }: Download): Promise<boolean> {
  const sha256 = hash.length === 64;
  const digest = createHash(sha256 ? 'sha256' : 'sha1');
  if (!sha256) digest.update(`blob ${size}\0`); // git hashes the kind and length with the content
  for await (const chunk of createReadStream(file)) digest.update(chunk);
  return digest.digest('hex') === hash;
}
