import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import type { Channel } from '#nano/distributed/channel';
import { type Hello, isHello, receiveJson, sendJson, VERSION } from '#nano/distributed/handshake';
import { isLoopback, type RankInfo } from '#nano/distributed/rank-env';
import { SocketChannel } from '#nano/distributed/socket-channel';
import { DistributedError } from '#nano/errors';

/** What rank 0 knows of the world. Port 0 lets the system choose one, for ranks that are then told. */
export type World = Pick<RankInfo, 'worldSize' | 'masterAddr' | 'masterPort' | 'token'>;

export interface RendezvousOptions {
  /** How long to wait for all. Launchers start hosts one after the other, and files may come over a network. */
  readonly timeoutSeconds?: number;
  /** How long a connection may stay without saying who it is. */
  readonly helloSeconds?: number;
}

/**
 * Rank 0's side of how ranks meet: it listens, each other rank comes and says hello, and when all are there, all are welcomed
 * and the port is closed. A hello that contradicts this run ends it: whoever sent it will be missing, or is one too many.
 * Connections that do not speak the protocol, or know another token, are strangers: they are shut out, and the run goes on.
 */
export class Rendezvous {
  /** One for each other rank, in order. @throws DistributedError when they cannot all meet. */
  readonly channels: Promise<Channel[]>;
  readonly port: number;
  private readonly arrived = new Map<number, { socket: Socket; peer: string }>();
  private readonly unknown = new Set<Socket>();
  private readonly timer: NodeJS.Timeout;
  private over = false;
  private resolve!: (channels: Channel[]) => void;
  private reject!: (error: Error) => void;

  private constructor(
    private readonly server: Server,
    private readonly world: World,
    { timeoutSeconds = 300, helloSeconds = 10 }: RendezvousOptions,
  ) {
    this.channels = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    this.channels.catch(() => {}); // may fail before anybody waits for it
    this.port = (server.address() as AddressInfo).port;
    this.timer = setTimeout(() => this.fail(this.explainTimeout(timeoutSeconds)), timeoutSeconds * 1000);
    server.on('connection', (socket) => this.greet(socket, helloSeconds * 1000));
    server.on('error', (cause) => this.fail(new DistributedError(`Listening failed: ${cause.message}`, { cause })));
    this.welcomeWhenComplete();
  }

  /** Begins to listen. @throws DistributedError when the port cannot be had. */
  static async open(world: World, options: RendezvousOptions = {}): Promise<Rendezvous> {
    const server = createServer();
    // Other hosts come in over any interface; on this host alone, nobody else needs to see the port.
    const host = isLoopback(world.masterAddr) ? world.masterAddr : undefined;
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject).listen(world.masterPort, host, resolve);
    }).catch((cause: NodeJS.ErrnoException) => {
      const problem = cause.code === 'EADDRINUSE' ? 'is in use' : `cannot be listened on (${cause.message})`;
      throw new DistributedError(
        `Port ${world.masterPort}, where the other ranks should meet rank 0, ${problem}. Give all ranks another ` +
          'MASTER_PORT; or end what has it: another run, or one that was not ended?',
        { cause },
      );
    });
    return new Rendezvous(server, world, options);
  }

  /** Ends the meeting unless all have met. Who came already is told why. */
  fail(error: Error): void {
    if (this.over) return;
    this.end();
    for (const { socket } of this.arrived.values()) refuse(socket, error.message);
    this.reject(error);
  }

  private async greet(socket: Socket, timeoutMs: number): Promise<void> {
    socket.on('error', () => {}); // without a listener it would end the process; the close that follows says enough
    this.unknown.add(socket);
    const hello = await receiveJson(socket, timeoutMs).catch(() => undefined);
    this.unknown.delete(socket);
    if (this.over || !isHello(hello)) return void socket.destroy();
    if (hello.token !== this.world.token) {
      return refuse(socket, 'NANOVLLM_TOKEN differs: this is another run. Give each run a MASTER_PORT of its own.');
    }
    const peer = `rank ${hello.rank} (${hello.hostname}, pid ${hello.pid})`;
    const problem = this.contradiction(hello, peer);
    if (problem) {
      refuse(socket, problem);
      return this.fail(new DistributedError(problem));
    }
    this.arrived.set(hello.rank, { socket, peer });
    socket.on('close', () =>
      this.fail(new DistributedError(`${peer} left before all ranks had come. What it printed says why.`)),
    );
    socket.resume(); // only to notice when it leaves: until it is welcomed it has nothing to say
    this.welcomeWhenComplete();
  }

  private contradiction({ version, rank, worldSize }: Hello, peer: string): string | undefined {
    const expected = this.world.worldSize;
    if (version !== VERSION) {
      return `${peer} runs '${version}', rank 0 runs '${VERSION}'. Install the same version on all hosts.`;
    }
    if (worldSize !== expected) {
      return `${peer} was started with WORLD_SIZE ${worldSize}, rank 0 with ${expected}. Start all with the same one.`;
    }
    if (rank < 1 || rank >= expected) {
      return `${peer} came to rank 0; ranks from 1 to ${expected - 1} were expected. Give each process a RANK of its own.`;
    }
    const other = this.arrived.get(rank);
    if (other) {
      return (
        `Two processes say that they are rank ${rank}: ${other.peer} and ${peer}. Give each a RANK of its own; ` +
        'or, if they are of two runs, each run a MASTER_PORT and a NANOVLLM_TOKEN of its own.'
      );
    }
    return undefined;
  }

  private welcomeWhenComplete(): void {
    if (this.over || this.arrived.size < this.world.worldSize - 1) return;
    this.end();
    const inOrder = [...this.arrived.entries()].sort(([a], [b]) => a - b);
    this.resolve(
      inOrder.map(([, { socket, peer }]) => {
        sendJson(socket, { welcome: true });
        return new SocketChannel(socket, peer);
      }),
    );
  }

  private end(): void {
    this.over = true;
    clearTimeout(this.timer);
    this.server.close();
    for (const socket of this.unknown) socket.destroy();
  }

  private explainTimeout(seconds: number): DistributedError {
    const { worldSize, masterAddr, masterPort } = this.world;
    const ranks = Array.from({ length: worldSize - 1 }, (_, i) => i + 1).filter((rank) => !this.arrived.has(rank));
    const who = `${ranks.length === 1 ? 'Rank' : 'Ranks'} ${new Intl.ListFormat('en').format(ranks.map(String))} of ${worldSize}`;
    let remedy = 'What it printed may say why.';
    if (masterPort !== 0) {
      remedy = 'Start all ranks, with the same MASTER_ADDR and MASTER_PORT';
      if (isLoopback(masterAddr)) remedy += `; on several hosts, MASTER_ADDR must be rank 0's, not ${masterAddr}`;
      remedy += '. To run alone, set WORLD_SIZE=1 and no RANK.';
    }
    return new DistributedError(`${who} did not come to ${masterAddr}:${this.port} within ${seconds} s. ${remedy}`);
  }
}

function refuse(socket: Socket, reason: string): void {
  sendJson(socket, { refused: reason });
  socket.destroySoon(); // once that is sent
}
