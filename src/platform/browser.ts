import { ReferenceBackend } from '#nano/backends/reference/index';
import { BackendError, ConfigError, ModelError } from '#nano/errors';
import type { ModelFiles, RandomAccessFile } from '#nano/platform/files';
import type { Platform } from '#nano/platform/platform';

/** A model's files under a web address. Each is fetched whole, and once. */
class UrlFiles implements ModelFiles {
  private readonly fetched = new Map<string, Promise<Uint8Array | null>>();

  constructor(readonly name: string) {}

  async has(file: string): Promise<boolean> {
    return (await this.fetch(file)) !== null;
  }

  async readText(file: string): Promise<string> {
    return new TextDecoder().decode(await this.bytes(file));
  }

  async open(file: string): Promise<RandomAccessFile> {
    const bytes = await this.bytes(file);
    return {
      size: bytes.length,
      read: async (offset, into) => {
        if (offset + into.length > bytes.length) {
          throw new ModelError(
            `${file} ends at byte ${bytes.length}; bytes up to ${offset + into.length} were asked for.`,
          );
        }
        into.set(bytes.subarray(offset, offset + into.length));
      },
      close: async () => {
        this.fetched.delete(file);
      },
    };
  }

  private async bytes(file: string): Promise<Uint8Array> {
    const bytes = await this.fetch(file);
    if (!bytes) throw new ModelError(`There is no ${file} at ${this.name}.`);
    return bytes;
  }

  private fetch(file: string): Promise<Uint8Array | null> {
    const known = this.fetched.get(file);
    if (known) return known;
    const fetching = fetch(`${this.name.replace(/\/$/, '')}/${file}`).then(async (response) =>
      response.ok ? new Uint8Array(await response.arrayBuffer()) : null,
    );
    this.fetched.set(file, fetching);
    return fetching;
  }
}

export const platform: Platform = {
  openModel: async (model) => new UrlFiles(model),
  createBackend(name) {
    if (name === 'auto' || name === 'reference') return new ReferenceBackend();
    throw new BackendError(`Backend '${name}' needs native code and cannot run in a browser. Use 'reference'.`);
  },
  async open(_model, { backend: name, tensorParallelSize }) {
    if (tensorParallelSize > 1) {
      throw new ConfigError(`tensorParallelSize ${tensorParallelSize} needs Node: a browser has one rank. Use 1.`);
    }
    const backend = this.createBackend(name);
    return { backend, place: {}, close: async () => backend.close() };
  },
  kvCacheBudget: () => 2 ** 28,
  launchedRanks: () => undefined,
  env: () => undefined,
  showStatus: () => {},
  yieldToEventLoop: () =>
    new Promise((done) => {
      // setTimeout would wait four milliseconds; a message arrives at once.
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        port1.close();
        done();
      };
      port2.postMessage(null);
    }),
};
