import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export const COMMIT = 'c0ffee'.padEnd(40, '0');

export interface HubRequest {
  path: string;
  range: string | undefined;
  authorization: string | undefined;
}

/** Enough of the hub's HTTP interface for one model, on this machine; and the ways in which it can fail. */
export class FakeHub {
  readonly requests: HubRequest[] = [];
  /** Answers every request with this status. */
  status: number | undefined;
  /** Closes the connection after so many bytes of a large file; once for each entry. */
  cuts: number[] = [];
  ignoreRanges = false;
  /** Sends other bytes than were promised. */
  damage = false;
  commit = COMMIT;
  private readonly main: Server;
  /** Another origin, to which large files are redirected. */
  private readonly storage: Server;

  constructor(
    readonly id: string,
    readonly files: Record<string, Buffer>,
  ) {
    this.main = createServer((request, response) => this.answer(request, response));
    this.storage = createServer((request, response) => this.sendStored(request, response));
  }

  async start(): Promise<string> {
    await Promise.all(
      [this.main, this.storage].map((s) => new Promise<void>((done) => s.listen(0, '127.0.0.1', done))),
    );
    return origin(this.main);
  }

  async stop(): Promise<void> {
    for (const server of [this.main, this.storage]) {
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    }
  }

  /** Requests for the content of files, as `file` or `file from BYTE`. */
  get bodies(): string[] {
    return this.requests
      .filter(({ path }) => path.includes('/resolve/'))
      .map(({ path, range }) => [path.split('/').at(-1), range].filter(Boolean).join(' '));
  }

  private note(request: IncomingMessage): string {
    const path = new URL(request.url ?? '/', 'http://hub').pathname;
    this.requests.push({ path, range: request.headers.range, authorization: request.headers.authorization });
    return path;
  }

  private answer(request: IncomingMessage, response: ServerResponse): void {
    const path = this.note(request);
    const json = (value: unknown) => response.setHeader('Content-Type', 'application/json').end(JSON.stringify(value));
    const file = path.split('/').at(-1) ?? '';
    if (this.status !== undefined) response.writeHead(this.status).end();
    else if (path.startsWith(`/api/models/${this.id}/revision/`)) json({ _id: '1', id: this.id, sha: this.commit });
    else if (path === `/api/models/${this.id}/tree/${this.commit}`) json(this.list());
    else if (path !== `/${this.id}/resolve/${this.commit}/${file}` || !(file in this.files))
      response.writeHead(404).end();
    else if (isLarge(file)) response.writeHead(302, { Location: `${origin(this.storage)}/stored/${file}` }).end();
    else response.end(this.files[file]);
  }

  private list(): unknown[] {
    const files = Object.entries(this.files).map(([path, content]) => ({
      type: 'file',
      path,
      size: content.length,
      oid: createHash('sha1').update(`blob ${content.length}\0`).update(content).digest('hex'),
      ...(isLarge(path) && { lfs: { oid: createHash('sha256').update(content).digest('hex'), size: content.length } }),
    }));
    return [{ type: 'directory', path: 'onnx', size: 0, oid: '' }, ...files];
  }

  private sendStored(request: IncomingMessage, response: ServerResponse): void {
    const file = this.note(request).split('/').at(-1) ?? '';
    const content = this.damage ? Buffer.alloc(this.files[file].length) : this.files[file];
    const from = this.ignoreRanges ? 0 : Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
    const rest = content.subarray(from);
    response.setHeader('Content-Length', rest.length);
    if (from > 0) response.setHeader('Content-Range', `bytes ${from}-${content.length - 1}/${content.length}`);
    response.writeHead(from > 0 ? 206 : 200);
    const cut = this.cuts.shift();
    if (cut === undefined) response.end(rest);
    else response.write(rest.subarray(0, cut), () => setTimeout(() => response.destroy(), 50));
  }
}

const isLarge = (file: string) => file.endsWith('.safetensors');

function origin(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
