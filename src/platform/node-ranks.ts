import { CudaBackend, cudaDeviceCount } from '#nano/backends/cuda';
import { Followers } from '#nano/distributed/followers';
import { type HostMemory, LocalGroup } from '#nano/distributed/local-group';
import { NcclGroup } from '#nano/distributed/nccl-group';
import type { ProcessGroup } from '#nano/distributed/process-group';
import { serveAsRank } from '#nano/distributed/process-rank';
import { forkRanks } from '#nano/distributed/processes';
import { type RankInfo, rankFromEnv } from '#nano/distributed/rank-env';
import type { Ranks } from '#nano/distributed/ranks';
import { Rendezvous } from '#nano/distributed/rendezvous';
import { startThreads } from '#nano/distributed/threads';
import { ConfigError } from '#nano/errors';
import { platform } from '#nano/platform';
import { findUp } from '#nano/platform/find-up';
import type { Opened, WantedRanks } from '#nano/platform/platform';
import type { Backend } from '#nano/tensor/kernels';

// Also where this code runs from src (in tests), other threads and processes run what was built.
const PROCESS_ENTRY = () => findUp('dist/src/distributed/process-main.js');
const THREAD_ENTRY = () => findUp('dist/src/distributed/thread-main.js');

/** `Platform.open` in Node: on GPUs ranks are processes, which NCCL connects; on CPUs they are threads of this one. */
export async function openRanks(model: string, wanted: WantedRanks): Promise<Opened> {
  const { tensorParallelSize: worldSize, backend: name, batchInvariant } = wanted;
  const info = rankFromEnv();
  if (info && info.worldSize !== worldSize) throw mismatch(info, worldSize);
  if (info && info.rank > 0) process.exit(await serveAsRank(info));
  const onCpu = { ranksOnHost: worldSize };
  const backend = platform.createBackend(name, { batchInvariant, device: info?.localRank, ...onCpu });
  try {
    if (worldSize === 1) return { backend, place: {}, close: async () => backend.close() };
    if (backend instanceof CudaBackend) return await openGpus(model, wanted, backend, info);
    if (info) throw launchedWithoutGpus(info, backend);
    return openThreads(model, wanted, backend);
  } catch (error) {
    backend.close();
    throw error;
  }
}

async function openGpus(model: string, wanted: WantedRanks, backend: CudaBackend, info: RankInfo | undefined) {
  const { tensorParallelSize: worldSize } = wanted;
  const gpus = cudaDeviceCount();
  if (!info && gpus < worldSize) {
    throw new ConfigError(
      `tensorParallelSize ${worldSize} needs as many GPUs, and this machine has ${gpus}. Lower it; or start the ranks ` +
        'on several hosts with a launcher.',
    );
  }
  const uniqueId = NcclGroup.uniqueId();
  const connect = () => NcclGroup.connect(backend, uniqueId, 0, worldSize);
  return openProcesses(model, wanted, backend, { info, uniqueId, connect, entry: PROCESS_ENTRY() });
}

export interface ProcessOptions {
  /** What a launcher says, where there was one; otherwise ranks are forked. */
  readonly info?: RankInfo;
  /** What forked ranks run. */
  readonly entry: string;
  readonly uniqueId: Uint8Array | null;
  /** Joins the group as rank 0. */
  readonly connect: () => Promise<ProcessGroup>;
}

/** Ranks that a launcher started, or as many as are wanted, forked here. */
export async function openProcesses(
  model: string,
  { tensorParallelSize: worldSize, batchInvariant }: WantedRanks,
  backend: Backend,
  { info, entry, uniqueId, connect }: ProcessOptions,
): Promise<Opened> {
  const { channels, stop } = info ? await meetLaunched(info) : await forkRanks({ worldSize, entry });
  let group: ProcessGroup | undefined;
  const followers = new Followers(channels, stop, () => group);
  try {
    followers.send({ kind: 'join', backend: backend.name, batchInvariant, uniqueId });
    group = await followers.orFail(connect());
  } catch (error) {
    await followers.close(() => {});
    throw error;
  }
  return opened(backend, { group, followers, model });
}

/** Who started those ranks ends them; all there is to close are the lines to them. */
async function meetLaunched(info: RankInfo) {
  const channels = await (await Rendezvous.open(info)).channels;
  return { channels, stop: async () => channels.forEach((channel) => channel.close()) };
}

/** Ranks as threads that run `entry`. */
export function openThreads(
  model: string,
  { tensorParallelSize: worldSize, batchInvariant }: WantedRanks,
  backend: Backend,
  entry = THREAD_ENTRY(),
): Opened {
  const shared = LocalGroup.sharedMemory(worldSize);
  const group = new LocalGroup(0, worldSize, shared, backend as unknown as HostMemory);
  const { channels, stop } = startThreads(entry, worldSize, shared);
  const followers = new Followers(channels, stop, () => group);
  followers.send({ kind: 'join', backend: backend.name, batchInvariant, uniqueId: null });
  return { ...opened(backend, { group, followers, model }), place: { ranksOnHost: worldSize } };
}

function opened(backend: Backend, ranks: Ranks): Opened {
  const close = () =>
    ranks.followers.close(() => {
      ranks.group.close();
      backend.close();
    });
  return { backend, ranks, place: {}, close };
}

function mismatch({ worldSize }: RankInfo, asked: number): ConfigError {
  return new ConfigError(
    `tensorParallelSize is ${asked}, and the launcher started ${worldSize} ranks (WORLD_SIZE). Leave tensorParallelSize out, or make ` +
      'them equal.',
  );
}

function launchedWithoutGpus({ worldSize }: RankInfo, { name }: Backend): ConfigError {
  return new ConfigError(
    `A launcher started ${worldSize} ranks (WORLD_SIZE), but ranks in processes need GPUs, and the backend here is '${name}'. On ` +
      `CPUs the ranks are threads: start one process, with tensorParallelSize ${worldSize}.`,
  );
}
