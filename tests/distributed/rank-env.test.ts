import { describe, expect, test } from 'vitest';
import { rankFromEnv } from '#nano/distributed/rank-env';
import { ConfigError } from '#nano/errors';

const at = (rank: number, worldSize: number, localRank: number) => ({
  rank,
  worldSize,
  localRank,
  masterAddr: '127.0.0.1',
  masterPort: 29500,
  token: '',
});
const openMpi = {
  OMPI_COMM_WORLD_RANK: '5',
  OMPI_COMM_WORLD_SIZE: '8',
  OMPI_COMM_WORLD_LOCAL_RANK: '1',
};
const srun = {
  SLURM_NTASKS: '4',
  SLURM_STEP_ID: '0',
  SLURM_STEP_NUM_TASKS: '4',
  SLURM_PROCID: '3',
  SLURM_LOCALID: '1',
};

describe('a rank', () => {
  test.each([
    ['by hand', { RANK: '2', WORLD_SIZE: '4', LOCAL_RANK: '0' }, at(2, 4, 0)],
    [
      'torchrun, whose store has the port it sets',
      { RANK: '2', WORLD_SIZE: '4', LOCAL_RANK: '0', MASTER_PORT: '29400', TORCHELASTIC_RUN_ID: 'none' },
      { ...at(2, 4, 0), masterPort: 29401 },
    ],
    ['by hand, on one host', { RANK: '2', WORLD_SIZE: '4' }, at(2, 4, 2)],
    ['Open MPI', openMpi, at(5, 8, 1)],
    ['MPICH and Intel MPI', { PMI_RANK: '1', PMI_SIZE: '2', MPI_LOCALRANKID: '0' }, at(1, 2, 0)],
    ['srun', srun, at(3, 4, 1)],
    ['srun --mpi=pmi2', { ...srun, PMI_RANK: '3', PMI_SIZE: '4' }, at(3, 4, 1)],
    [
      'mpirun in a Slurm job: one srun task for each host',
      { ...srun, ...openMpi, SLURM_STEP_NUM_TASKS: '2' },
      at(5, 8, 1),
    ],
    ['RANK before what a launcher says', { ...openMpi, RANK: '0', WORLD_SIZE: '2' }, at(0, 2, 0)],
    ['empty is not set', { RANK: '', PMI_RANK: '1', PMI_SIZE: '2', MASTER_ADDR: '', MASTER_PORT: '' }, at(1, 2, 1)],
  ])('%s', (_, env, expected) => {
    expect(rankFromEnv(env)).toEqual(expected);
  });

  test('where rank 0 waits, and what strangers do not know', () => {
    const env = { RANK: '0', WORLD_SIZE: '2', MASTER_ADDR: 'node7', MASTER_PORT: '4711', NANOVLLM_TOKEN: 'secret' };
    expect(rankFromEnv(env)).toMatchObject({ masterAddr: 'node7', masterPort: 4711, token: 'secret' });
  });
});

// What Slurm sets was taken from printed environments.
describe('alone', () => {
  test.each([
    ['nothing is set', {}],
    ['a world of one', { RANK: '0', WORLD_SIZE: '1' }],
    ['mpirun -n 1', { OMPI_COMM_WORLD_RANK: '0', OMPI_COMM_WORLD_SIZE: '1', OMPI_COMM_WORLD_LOCAL_RANK: '0' }],
    ['WORLD_SIZE=1 by hand, whatever the launcher says', { ...openMpi, WORLD_SIZE: '1' }],
    ['an address alone', { MASTER_ADDR: 'node7', MASTER_PORT: '4711' }],
    ['salloc: a shell on the login node', { SLURM_NTASKS: '8', SLURM_JOB_ID: '1' }],
    [
      'salloc: a shell on a compute node, which is a step of one task',
      { ...srun, SLURM_PROCID: '0', SLURM_NTASKS: '8', SLURM_STEP_ID: '4294967290', SLURM_STEP_NUM_TASKS: '1' },
    ],
    ['a batch script, which is no step', { SLURM_NTASKS: '8', SLURM_PROCID: '0', SLURM_LOCALID: '0' }],
  ])('%s', (_, env) => {
    expect(rankFromEnv(env)).toBeUndefined();
  });
});

describe('refused', () => {
  test.each([
    [
      { RANK: '4', WORLD_SIZE: '4' },
      /^RANK must be a whole number from 0 to 3 \(WORLD_SIZE is 4\), got '4'\. Correct it/,
    ],
    [{ RANK: '-1', WORLD_SIZE: '4' }, /^RANK must be a whole number from 0 to 3/],
    [{ RANK: '1.5', WORLD_SIZE: '4' }, /^RANK must be .* got '1\.5'/],
    [{ RANK: '1', WORLD_SIZE: 'four' }, /^WORLD_SIZE must be a whole number from 1 to 65536, got 'four'/],
    [{ RANK: '0', WORLD_SIZE: '0' }, /^WORLD_SIZE must be .* got '0'/],
    [{ RANK: '1', WORLD_SIZE: '1' }, /^RANK must be a whole number from 0 to 0 \(WORLD_SIZE is 1\)/],
    [{ RANK: '1' }, /^RANK is '1', but WORLD_SIZE is not set\. Set it to the number of processes, or unset RANK/],
    [{ WORLD_SIZE: '4' }, /^WORLD_SIZE is '4', but RANK is not set\. Give every process its own RANK/],
    [{ PMI_RANK: '1' }, /^PMI_RANK is '1', but PMI_SIZE is not set/],
    [{ RANK: '1', WORLD_SIZE: '2', LOCAL_RANK: '2' }, /^LOCAL_RANK must be a whole number from 0 to 1/],
    [{ RANK: '1', WORLD_SIZE: '2', MASTER_PORT: '70000' }, /^MASTER_PORT must be a whole number from 1 to 65535/],
    [{ ...srun, SLURM_PROCID: '9' }, /^SLURM_PROCID must be a whole number from 0 to 3 \(SLURM_STEP_NUM_TASKS is 4\)/],
  ])('%j', (env, message) => {
    expect(() => rankFromEnv(env)).toThrow(ConfigError);
    expect(() => rankFromEnv(env)).toThrow(message);
  });
});
