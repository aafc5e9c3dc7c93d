import { ConfigError } from '#nano/errors';

/** Which rank this process is, of how many, and where rank 0 waits for the others. */
export interface RankInfo {
  readonly rank: number;
  readonly worldSize: number;
  /** Counts the ranks of one host: which of its GPUs is whose. */
  readonly localRank: number;
  readonly masterAddr: string;
  readonly masterPort: number;
  /** What all ranks of a run know and a stranger does not; '' when nobody set NANOVLLM_TOKEN. */
  readonly token: string;
}

type Env = Readonly<Record<string, string | undefined>>;

interface Launcher {
  readonly rank: string;
  readonly worldSize: string;
  /** The first that is set counts. */
  readonly localRank: readonly string[];
  /** Without a size these ranks are not a world, rather than a mistake. */
  readonly sizeOptional?: boolean;
}

/**
 * What launchers call it. The first whose rank is set counts: whoever sets RANK means it, and mpirun inside a Slurm job
 * starts its own helpers with srun, so that Slurm's variables are there too and speak of those.
 *
 * Slurm counts the tasks of a job (SLURM_NTASKS) and those of a step, which is what one srun starts. Batch scripts and the
 * shells of salloc are in the job, have SLURM_PROCID=0, and are nevertheless alone; only the step's count tells them from
 * what srun started: it is absent there, or 1.
 */
const LAUNCHERS: readonly Launcher[] = [
  { rank: 'RANK', worldSize: 'WORLD_SIZE', localRank: ['LOCAL_RANK'] }, // torchrun, and by hand
  { rank: 'OMPI_COMM_WORLD_RANK', worldSize: 'OMPI_COMM_WORLD_SIZE', localRank: ['OMPI_COMM_WORLD_LOCAL_RANK'] },
  { rank: 'PMI_RANK', worldSize: 'PMI_SIZE', localRank: ['MPI_LOCALRANKID', 'SLURM_LOCALID'] }, // MPICH, Intel MPI
  { rank: 'SLURM_PROCID', worldSize: 'SLURM_STEP_NUM_TASKS', localRank: ['SLURM_LOCALID'], sizeOptional: true },
];

/**
 * What the environment says of this process; undefined when it was started alone. WORLD_SIZE=1 makes it alone whatever
 * a launcher says.
 * @throws ConfigError for values that are malformed or contradict each other.
 */
export function rankFromEnv(env: Env = process.env): RankInfo | undefined {
  const isSet = (name: string) => (env[name] ?? '') !== '';
  if (env.WORLD_SIZE === '1' && !isSet('RANK')) return undefined;
  const launcher = LAUNCHERS.find(({ rank }) => isSet(rank));
  if (!launcher) {
    if (!isSet('WORLD_SIZE')) return undefined;
    throw new ConfigError(
      `WORLD_SIZE is '${env.WORLD_SIZE}', but RANK is not set. Give every process its own RANK from 0 to WORLD_SIZE - 1, ` +
        'or unset WORLD_SIZE to run alone.',
    );
  }
  if (!isSet(launcher.worldSize)) {
    if (launcher.sizeOptional) return undefined;
    throw new ConfigError(
      `${launcher.rank} is '${env[launcher.rank]}', but ${launcher.worldSize} is not set. Set it to the number of ` +
        `processes, or unset ${launcher.rank} to run alone.`,
    );
  }
  const worldSize = wholeNumber(env, launcher.worldSize, 1, 65536);
  const limit = `${launcher.worldSize} is ${worldSize}`;
  const rank = wholeNumber(env, launcher.rank, 0, worldSize - 1, limit);
  if (worldSize === 1) return undefined;
  const local = launcher.localRank.find(isSet);
  // torchrun's own store listens on the port it sets, and so rank 0 takes the next.
  const besideStore = isSet('TORCHELASTIC_RUN_ID') ? 1 : 0;
  return {
    rank,
    worldSize,
    // Without a word about hosts there is one.
    localRank: local === undefined ? rank : wholeNumber(env, local, 0, worldSize - 1, limit),
    masterAddr: env.MASTER_ADDR || '127.0.0.1',
    masterPort: isSet('MASTER_PORT') ? wholeNumber(env, 'MASTER_PORT', 1, 65535 - besideStore) + besideStore : 29500,
    token: env.NANOVLLM_TOKEN ?? '',
  };
}

function wholeNumber(env: Env, name: string, min: number, max: number, why?: string): number {
  const text = (env[name] ?? '').trim();
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= min && value <= max) return value;
  throw new ConfigError(
    `${name} must be a whole number from ${min} to ${max}${why ? ` (${why})` : ''}, got '${env[name]}'. ` +
      'Correct it where the processes are started; to run alone, set WORLD_SIZE=1 and no RANK.',
  );
}

/** Addresses that mean this host, and that no other can reach. */
export function isLoopback(address: string): boolean {
  return address === 'localhost' || address === '::1' || /^127\.\d+\.\d+\.\d+$/.test(address);
}
