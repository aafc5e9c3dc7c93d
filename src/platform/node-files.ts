import { readSync } from 'node:fs';
import { type FileHandle, open, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { ModelError } from '#nano/errors';
import type { ModelFiles, RandomAccessFile } from '#nano/platform/files';

/** A model in a local folder. Node only. */
export class FolderFiles implements ModelFiles {
  private constructor(readonly name: string) {}

  /** @throws ModelError when there is no such folder. */
  static async open(folder: string): Promise<FolderFiles> {
    const found = await stat(folder).catch(() => undefined);
    if (found === undefined) {
      throw new ModelError(
        `The model folder '${folder}' does not exist (looked in ${path.resolve(folder)}). ` +
          'Give a folder with config.json and *.safetensors, or the id of a model on the hub, e.g. Qwen/Qwen3-0.6B.',
      );
    }
    if (!found.isDirectory()) {
      throw new ModelError(`'${folder}' is a file. Give the folder that holds config.json and *.safetensors.`);
    }
    return new FolderFiles(folder);
  }

  async has(file: string): Promise<boolean> {
    // stat follows links: in the hub's cache every file is one, and a dangling one counts as missing.
    const found = await stat(path.join(this.name, file)).catch(() => undefined);
    return found?.isFile() ?? false;
  }

  async readText(file: string): Promise<string> {
    try {
      return await readFile(path.join(this.name, file), 'utf8');
    } catch (cause) {
      throw this.unreadable(file, cause);
    }
  }

  async open(file: string): Promise<RandomAccessFile> {
    let handle: FileHandle | undefined;
    try {
      handle = await open(path.join(this.name, file));
      const found = await handle.stat();
      if (!found.isFile()) throw new Error('it is not a file');
      return new NodeFile(`${file} in ${this.name}`, handle, found.size);
    } catch (cause) {
      await handle?.close();
      throw this.unreadable(file, cause);
    }
  }

  private unreadable(file: string, cause: unknown): ModelError {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') {
      return new ModelError(`${file} is missing in ${this.name}. Is this a model folder, and was it copied whole?`);
    }
    return new ModelError(`${file} in ${this.name} cannot be read: ${message}`, { cause });
  }
}

// Node refuses to read 2 GiB or more at once.
const MAX_READ = 2 ** 30;
// Below this, sending a thread to read takes longer than reading: a rank reads a piece of every row of half of its weights.
const SMALL_READ = 2 ** 16;

class NodeFile implements RandomAccessFile {
  constructor(
    private readonly name: string,
    private readonly handle: FileHandle,
    readonly size: number,
  ) {}

  async read(offset: number, into: Uint8Array): Promise<void> {
    let done = 0;
    while (done < into.byteLength) {
      const length = Math.min(into.byteLength - done, MAX_READ);
      const at = offset + done;
      const bytesRead =
        length < SMALL_READ
          ? readSync(this.handle.fd, into, done, length, at)
          : (await this.handle.read(into, done, length, at)).bytesRead;
      if (bytesRead === 0) {
        throw new ModelError(
          `${this.name} ends at byte ${offset + done}; ${into.byteLength} bytes from ${offset} on were expected. ` +
            'Was it cut off while being copied, or does another program write it?',
        );
      }
      done += bytesRead;
    }
  }

  async close(): Promise<void> {
    await this.handle.close();
  }
}
