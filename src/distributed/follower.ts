import { Config } from '#nano/config';
import type { Channel } from '#nano/distributed/channel';
import type { FromFollower, ToFollower } from '#nano/distributed/messages';
import type { ProcessGroup } from '#nano/distributed/process-group';
import { decodeStep } from '#nano/distributed/step-message';
import { type BuiltRunner, buildRunner } from '#nano/engine/build-runner';
import { DistributedError } from '#nano/errors';
import { platform } from '#nano/platform';
import type { RankPlace } from '#nano/platform/platform';
import type { Backend } from '#nano/tensor/kernels';

/** What differs between ranks in threads and ranks in processes. */
export interface FollowerSetup extends RankPlace {
  /** Joins the group; on GPUs it returns when all ranks have come. */
  connect(backend: Backend, uniqueId: Uint8Array | null): Promise<ProcessGroup>;
}

/**
 * The life of a rank other than 0: it does what rank 0 says, in that order, until it is told to close.
 * @returns when everything is given back. @throws when this rank failed, or rank 0 is gone.
 */
export function follow(channel: Channel, setup: FollowerSetup): Promise<void> {
  return new Promise((resolve, reject) => {
    const rank = new Follower(channel, setup);
    const fail = (error: unknown) => {
      rank.abort((error as Error).message);
      channel.send({ kind: 'failed', message: (error as Error).message } satisfies FromFollower);
      reject(error);
    };
    rank.onFailure = fail;
    // One after the other, though loading takes its time.
    let turn = Promise.resolve();
    let isClosing = false; // rank 0 hangs up then, maybe before this rank has done all it was told before
    channel.onMessage((message) => {
      turn = turn.then(() => rank.obey(message as ToFollower)).catch(fail);
      if ((message as ToFollower).kind !== 'close') return;
      isClosing = true;
      turn = turn.then(resolve);
    });
    channel.closed.then((reason) => {
      if (!isClosing) fail(new DistributedError(`Rank 0 was lost: ${reason}`));
    });
  });
}

type Told<Kind extends ToFollower['kind']> = Extract<ToFollower, { readonly kind: Kind }>;

class Follower {
  private backend: Backend | undefined;
  private group: ProcessGroup | undefined;
  private built: BuiltRunner | undefined;
  onFailure: (error: unknown) => void = () => {};

  constructor(
    private readonly channel: Channel,
    private readonly setup: FollowerSetup,
  ) {}

  async obey(message: ToFollower): Promise<void> {
    switch (message.kind) {
      case 'join':
        return this.join(message);
      case 'load':
        return this.load(message);
      case 'allocate':
        return this.tell({ kind: 'ready', memory: this.loaded.allocateKvCache(message.numBlocks) });
      case 'step':
        // Not awaited: on a GPU the next step is launched while this one runs. What it draws is known here without asking rank 0.
        this.loaded.runner.launch(decodeStep(message.words)).catch(this.onFailure);
        return;
      case 'close':
        this.built?.runner.close();
        this.group?.close();
        this.backend?.close();
    }
  }

  private async join({ backend, batchInvariant, uniqueId }: Told<'join'>): Promise<void> {
    this.backend = platform.createBackend(backend, { batchInvariant, ...this.setup });
    this.group = await this.setup.connect(this.backend, uniqueId);
  }

  private async load({ model, options }: Told<'load'>): Promise<void> {
    const { backend, group, setup } = this;
    if (!backend || !group) throw new DistributedError('Rank 0 sent a model before a backend.');
    const config = new Config(options);
    const files = await platform.openModel(model, () => {});
    this.built = await buildRunner(files, config, backend, () => {}, group);
    const budget = platform.kvCacheBudget(backend, config.gpuMemoryUtilization, setup);
    this.tell({ kind: 'loaded', affordableBlocks: this.built.affordableBlocks(budget) });
  }

  private get loaded(): BuiltRunner {
    if (!this.built) throw new DistributedError('Rank 0 sent a step before a model.');
    return this.built;
  }

  private tell(message: FromFollower): void {
    this.channel.send(message);
  }

  abort(message: string): void {
    this.group?.abort(message);
  }
}
