import { existsSync } from 'node:fs';
import { freemem } from 'node:os';
import { resolve } from 'node:path';
import { createCpuBackend } from '#nano/backends/cpu';
import { CudaBackend, createCudaBackend } from '#nano/backends/cuda';
import { ReferenceBackend } from '#nano/backends/reference/index';
import { rankFromEnv } from '#nano/distributed/rank-env';
import { BackendError, ModelError } from '#nano/errors';
import { FolderFiles } from '#nano/platform/node-files';
import { openRanks } from '#nano/platform/node-ranks';
import type { Platform } from '#nano/platform/platform';
import type { Backend } from '#nano/tensor/kernels';
import { downloadModel } from '#nano/utils/hub';

const GIB = 2 ** 30;
const HUB_ID = /^[\w.-]+\/[\w.-]+$/;

export const platform: Platform = {
  async openModel(model, onProgress) {
    if (existsSync(model)) return FolderFiles.open(resolve(model));
    if (!HUB_ID.test(model)) {
      throw new ModelError(
        `'${model}' is neither a folder nor a hub id. Give the path of a model folder, or an id like 'Qwen/Qwen3-0.6B'.`,
      );
    }
    const folder = await downloadModel(model, {
      onProgress: (file, done, total) => onProgress(`Downloading ${file}: ${megabytes(done)} of ${megabytes(total)}`),
    });
    return FolderFiles.open(folder);
  },

  createBackend(name, { batchInvariant, device, ranksOnHost = 1 } = {}) {
    const { env } = process;
    if (name === 'reference') return new ReferenceBackend();
    const cuda = () =>
      createCudaBackend({
        device,
        batchInvariant,
        programmatic: env.NANOVLLM_CUDA_PDL !== '0',
        prefill: env.NANOVLLM_CUDA_PREFILL,
        decode: env.NANOVLLM_CUDA_DECODE,
      });
    const cpu = () => createCpuBackend({ isa: env.NANOVLLM_CPU_ISA, threads: env.NANOVLLM_NUM_THREADS, ranksOnHost });
    if (name === 'cuda') return cuda();
    if (name === 'cpu') return cpu();
    // Whoever chose an instruction set, or an attention kernel, means the backend that has it.
    if (!env.NANOVLLM_CPU_ISA) {
      const backend = unlessMissing(cuda);
      if (backend) return backend;
    }
    return (env.NANOVLLM_CPU_ISA ? cpu() : unlessMissing(cpu)) ?? new ReferenceBackend();
  },

  open: openRanks,

  kvCacheBudget(backend, gpuMemoryUtilization, { ranksOnHost = 1 } = {}) {
    if (backend instanceof CudaBackend) {
      const { free, total } = backend.memoryInfo();
      return Math.max(0, free - (1 - gpuMemoryUtilization) * total);
    }
    return (backend.name === 'reference' ? GIB / 2 : Math.min(4 * GIB, 0.4 * freemem())) / ranksOnHost;
  },

  launchedRanks: () => rankFromEnv()?.worldSize,
  env: (name) => process.env[name],

  showStatus(line) {
    if (!process.stderr.isTTY) return;
    const width = (process.stderr.columns ?? 80) - 1;
    process.stderr.write(line === null ? '\r\x1b[K' : `\r\x1b[K${line.slice(0, width)}`);
  },

  yieldToEventLoop: () => new Promise((done) => setImmediate(done)),
};

/** The backend, or undefined where it was not built or its device is not there. */
function unlessMissing(create: () => Backend): Backend | undefined {
  try {
    return create();
  } catch (error) {
    if (error instanceof BackendError && error.cause !== undefined) return undefined;
    throw error;
  }
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
