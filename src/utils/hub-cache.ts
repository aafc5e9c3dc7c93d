import { mkdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';

/**
 * One model in the cache that all Hugging Face tools share, so that what Python downloaded is found here,
 * and the other way round:
 *
 *   models--Qwen--Qwen3-0.6B/
 *     blobs/<hash of the content>            the files, each content once
 *     snapshots/<commit>/config.json         links into blobs/: what a model folder looks like
 *     refs/main                              the commit that 'main' was when it was last looked up
 */
export class CachedModel {
  private readonly folder: string;

  constructor(cacheFolder: string, id: string) {
    this.folder = path.join(cacheFolder, ['models', ...id.split('/')].join('--'));
  }

  /** Where a content with this hash lies, or will lie. */
  blobPath(hash: string): string {
    return path.join(this.folder, 'blobs', hash);
  }

  snapshotPath(commit: string): string {
    return path.join(this.folder, 'snapshots', commit);
  }

  /** Whether the snapshot has the file, with all its bytes. */
  async hasFile(commit: string, file: string, size: number): Promise<boolean> {
    return (await sizeOf(path.join(this.snapshotPath(commit), file))) === size;
  }

  /** Makes a finished blob appear in the snapshot. */
  async link(commit: string, file: string, hash: string): Promise<void> {
    const pointer = path.join(this.snapshotPath(commit), file);
    await mkdir(path.dirname(pointer), { recursive: true });
    await rm(pointer, { force: true });
    // Relative, so that the cache can be moved.
    const target = path.relative(path.dirname(pointer), this.blobPath(hash));
    // Windows allows links to some users only. There the file itself goes into the snapshot, as Python does it.
    await symlink(target, pointer).catch(() => rename(this.blobPath(hash), pointer));
  }

  /** Remembers what commit a branch or tag is. */
  async writeRef(revision: string, commit: string): Promise<void> {
    if (revision === commit) return;
    const file = path.join(this.folder, 'refs', revision);
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(file, commit);
  }

  /** The folder of a revision, if it was downloaded before: config.json and weights are there. */
  async find(revision: string): Promise<string | undefined> {
    const ref = await readFile(path.join(this.folder, 'refs', revision), 'utf8').catch(() => revision);
    const snapshot = this.snapshotPath(ref.trim());
    const has = async (file: string) => (await sizeOf(path.join(snapshot, file))) !== undefined;
    if (!(await has('config.json'))) return undefined;
    if (await has('model.safetensors')) return snapshot;
    const index = await readFile(path.join(snapshot, 'model.safetensors.index.json'), 'utf8').catch(() => '{}');
    // Read without parsing it strictly: whether the index is sound is for the loader to say.
    const shards = new Set(index.match(/[^"/\\]+\.safetensors(?=")/g));
    for (const shard of shards) if (!(await has(shard))) return undefined;
    return shards.size > 0 ? snapshot : undefined;
  }
}

/** Size of the file behind a path or link, or undefined where there is none. */
export async function sizeOf(file: string): Promise<number | undefined> {
  return (await stat(file).catch(() => undefined))?.size;
}
