import type { Channel } from '#nano/distributed/channel';
import type { FromFollower, ToFollower } from '#nano/distributed/messages';
import type { ProcessGroup } from '#nano/distributed/process-group';
import { DistributedError } from '#nano/errors';

type Reply<Kind extends FromFollower['kind']> = Extract<FromFollower, { readonly kind: Kind }>;

/**
 * Rank 0's view of the other ranks. When one of them is lost, all is: its shard of the weights is gone, and with it the keys and
 * values of every request. So the first failure ends the group, and everything that waits hears of it.
 */
export class Followers {
  /** Set once, by the first failure. */
  private failure: DistributedError | undefined;
  private readonly waiting = new Set<(error: DistributedError) => void>();
  private readonly inboxes: FromFollower[][];
  private closing = false;

  /**
   * @param channels to ranks 1, 2, …
   * @param stop ends what was started for them: threads, processes; resolves when nothing is left.
   */
  constructor(
    private readonly channels: readonly Channel[],
    private readonly stop: () => Promise<void>,
    private readonly group: () => ProcessGroup | undefined,
  ) {
    this.inboxes = channels.map(() => []);
    channels.forEach((channel, i) => {
      channel.onMessage((message) => this.receive(i, message as FromFollower));
      channel.closed.then((reason) => this.fail(`${channel.peer} was lost: ${reason}`));
    });
  }

  /** @throws DistributedError when the group has failed before. */
  send(message: ToFollower): void {
    if (this.failure) throw this.failure;
    for (const channel of this.channels) channel.send(message);
  }

  /** One message of this kind from each, by rank. @throws DistributedError when the group fails first. */
  async replies<Kind extends FromFollower['kind']>(kind: Kind): Promise<Reply<Kind>[]> {
    const isThere = () => this.inboxes.every((inbox) => inbox[0]?.kind === kind);
    while (!isThere()) await this.orFail(new Promise<void>((arrived) => (this.onArrival = arrived)));
    return this.inboxes.map((inbox) => inbox.shift() as Reply<Kind>);
  }

  private onArrival = () => {};

  private receive(index: number, message: FromFollower): void {
    if (message.kind === 'failed') this.fail(`${this.channels[index].peer} failed: ${message.message}`);
    else this.inboxes[index].push(message);
    this.onArrival();
  }

  /**
   * What `work` gives, or the group's failure if that comes first. Not Promise.race: every race against a promise that
   * lasts as long as the engine would leave something behind in it.
   */
  orFail<T>(work: Promise<T>): Promise<T> {
    if (this.failure) return Promise.reject(this.failure);
    return new Promise<T>((resolve, reject) => {
      this.waiting.add(reject);
      work.then(resolve, reject).finally(() => this.waiting.delete(reject));
    });
  }

  /** Ends the group: for all ranks, and for whoever waits. Only the first reason counts. */
  fail(reason: string): DistributedError {
    if (this.failure || this.closing) return this.failure ?? new DistributedError(reason);
    this.failure = new DistributedError(
      `${reason.replace(/\.?$/, '.')} The ranks of a model end together: load it again.`,
    );
    this.group()?.abort(this.failure.message);
    for (const channel of this.channels) channel.close();
    for (const reject of this.waiting) reject(this.failure);
    return this.failure;
  }

  /** Tells all to end, and comes back when they have. `meanwhile` is rank 0's own part. */
  async close(meanwhile: () => void): Promise<void> {
    if (!this.failure) this.send({ kind: 'close' });
    this.closing = true;
    meanwhile();
    await this.stop();
  }
}
