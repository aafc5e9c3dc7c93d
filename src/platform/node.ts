import { existsSync } from 'node:fs';
import { freemem } from 'node:os';
import { resolve } from 'node:path';
import { createNativeBackend } from '#nano/backends/native';
import { ReferenceBackend } from '#nano/backends/reference/index';
import { BackendError, ModelError } from '#nano/errors';
import { FolderFiles } from '#nano/platform/node-files';
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

  createBackend(name) {
    if (name === 'cuda') {
      throw new BackendError("Backend 'cuda' is not part of this version. Use 'auto', 'cpu' or 'reference'.");
    }
    if (name === 'reference') return new ReferenceBackend();
    try {
      return createNativeBackend({ isa: process.env.NANOVLLM_CPU_ISA, threads: process.env.NANOVLLM_NUM_THREADS });
    } catch (error) {
      if (name === 'auto' && !process.env.NANOVLLM_CPU_ISA && isMissingAddon(error)) return new ReferenceBackend();
      throw error;
    }
  },

  kvCacheBudget(backend: Backend) {
    return backend.name === 'reference' ? GIB / 2 : Math.min(4 * GIB, 0.4 * freemem());
  },

  env: (name) => process.env[name],

  showStatus(line) {
    if (!process.stderr.isTTY) return;
    const width = (process.stderr.columns ?? 80) - 1;
    process.stderr.write(line === null ? '\r\x1b[K' : `\r\x1b[K${line.slice(0, width)}`);
  },

  yieldToEventLoop: () => new Promise((done) => setImmediate(done)),
};

const isMissingAddon = (error: unknown): boolean => error instanceof BackendError && error.cause !== undefined;
const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
