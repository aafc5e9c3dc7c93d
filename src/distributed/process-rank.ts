import { CudaBackend } from '#nano/backends/cuda';
import { connectToRank0 } from '#nano/distributed/connect';
import { follow } from '#nano/distributed/follower';
import { NcclGroup } from '#nano/distributed/nccl-group';
import type { RankInfo } from '#nano/distributed/rank-env';
import { DistributedError } from '#nano/errors';

/** A rank in a process of its own, from its first word to its last. @returns the exit code. */
export async function serveAsRank(info: RankInfo): Promise<number> {
  const { rank, worldSize, localRank } = info;
  try {
    const channel = await connectToRank0(info);
    await follow(channel, {
      device: localRank,
      connect: (backend, uniqueId) => {
        if (backend instanceof CudaBackend && uniqueId) return NcclGroup.connect(backend, uniqueId, rank, worldSize);
        throw new DistributedError(`Ranks in processes need GPUs; rank 0 asks for the backend '${backend.name}'.`);
      },
    });
    return 0;
  } catch (error) {
    process.stderr.write(`[rank ${rank}] ${(error as Error).message}\n`);
    return 1;
  }
}
