import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { getHFHubCachePath, type ListFileEntry, listFiles, modelInfo } from '@huggingface/hub';
import { HubError } from '#nano/errors';
import { CachedModel, sizeOf } from '#nano/utils/hub-cache';
import { downloadResumable, isNetworkError, type Transport } from '#nano/utils/hub-download';
import { explainHubError, explainStatus, type HubRequestInfo } from '#nano/utils/hub-errors';

/** Called as bytes arrive. `done` begins above zero when an earlier download is continued. */
export type ProgressCallback = (file: string, done: number, total: number) => void;

export interface DownloadOptions {
  /** A branch, a tag or a commit; 'main' unless told otherwise. */
  revision?: string;
  onProgress?: ProgressCallback;
}

/** Top-level files only: weights in other formats lie in folders of their own. */
const NEEDED = /^((generation_|tokenizer_)?config\.json|tokenizer[\w.-]*\.json|chat_template\.jinja)$/;
const WEIGHTS = /^([\w.-]+\.safetensors|model\.safetensors\.index\.json)$/;

/**
 * Downloads a model from the Hugging Face hub into the cache that all Hugging Face tools share, or finds
 * it there. Node only. @huggingface/hub lists the files; the download is ours, because its own starts from
 * zero after an interruption and does not report progress.
 *
 * Environment: HF_TOKEN (for private and gated models), HF_HOME or HF_HUB_CACHE (where the cache lies),
 * HF_ENDPOINT (a mirror), HF_HUB_OFFLINE=1 (use the cache only).
 *
 * @param id such as 'Qwen/Qwen3-0.6B'
 * @returns the folder with the model's files.
 * @throws HubError saying what to do about it.
 */
export async function downloadModel(id: string, options: DownloadOptions = {}): Promise<string> {
  const { revision = 'main', onProgress = () => {} } = options;
  checkNames(id, revision);
  const cache = new CachedModel(getHFHubCachePath(), id);
  if (isOffline()) {
    const folder = await cache.find(revision);
    if (folder !== undefined) return folder;
    throw new HubError(
      `'${id}' (${revision}) is not in the cache ${getHFHubCachePath()}, and HF_HUB_OFFLINE is set. ` +
        'Unset it to download the model, or give a local folder.',
    );
  }
  const hub = new Hub(id, revision, await readToken());
  let listing: Listing;
  try {
    listing = await hub.list();
  } catch (error) {
    // A hub that cannot be reached is no reason not to run a model that is here already.
    const cached = isNetworkError(error) ? await cache.find(revision) : undefined;
    if (cached !== undefined) return cached;
    throw hub.explain(error);
  }
  const { commit, files } = listing;
  try {
    for (const entry of files) {
      if (await cache.hasFile(commit, entry.path, entry.size)) continue;
      const hash = contentHash(entry);
      if ((await sizeOf(cache.blobPath(hash))) !== entry.size) {
        const download = { file: entry.path, url: hub.fileUrl(commit, entry.path), size: entry.size, hash };
        const onBytes = (done: number) => onProgress(entry.path, done, entry.size);
        await downloadResumable(download, cache.blobPath(hash), hub, onBytes);
      }
      await cache.link(commit, entry.path, hash);
    }
    // Last: until everything is here, the name keeps standing for the commit that was complete.
    await cache.writeRef(revision, commit);
  } catch (error) {
    throw hub.explain(error);
  }
  return cache.snapshotPath(commit);
}

interface Listing {
  readonly commit: string;
  readonly files: readonly ListFileEntry[];
}

/** The hub's side of one model. */
class Hub implements Transport, HubRequestInfo {
  readonly endpoint = (process.env.HF_ENDPOINT || 'https://huggingface.co').replace(/\/+$/, '');

  constructor(
    readonly id: string,
    readonly revision: string,
    private readonly token: string | undefined,
  ) {}

  get hasToken(): boolean {
    return this.token !== undefined;
  }

  readonly fetch = (url: string | URL | Request, init: RequestInit = {}): Promise<Response> => {
    const headers = new Headers(init.headers);
    // fetch drops this header when it is redirected to another host, such as the one that stores the weights.
    if (this.token !== undefined) headers.set('Authorization', `Bearer ${this.token}`);
    return fetch(url, { ...init, headers });
  };

  async list(): Promise<Listing> {
    const shared = { hubUrl: this.endpoint, fetch: this.fetch };
    const { sha: commit } = await modelInfo({
      ...shared,
      name: this.id,
      revision: this.revision,
      additionalFields: ['sha'],
    });
    if (!/^[0-9a-f]{40}$/.test(commit)) throw new HubError(`${this.endpoint} calls '${commit}' a commit. Is it a hub?`);
    const files: ListFileEntry[] = [];
    for await (const entry of listFiles({ ...shared, repo: this.id, revision: commit })) {
      if (entry.type === 'file' && (NEEDED.test(entry.path) || WEIGHTS.test(entry.path))) files.push(entry);
    }
    const names = files.map((entry) => entry.path);
    if (!names.some((name) => name.endsWith('.safetensors'))) {
      throw new HubError(`${this.id} has no .safetensors weights on ${this.endpoint}. Choose a model that has.`);
    }
    // Some models have their weights twice: whole, and in shards or under the maker's own names.
    if (!names.includes('model.safetensors')) return { commit, files };
    return { commit, files: files.filter(({ path: f }) => f === 'model.safetensors' || !WEIGHTS.test(f)) };
  }

  fileUrl(commit: string, file: string): string {
    return `${this.endpoint}/${this.id}/resolve/${commit}/${encodeURIComponent(file)}`;
  }

  async refused(response: Response): Promise<HubError> {
    await response.body?.cancel();
    return explainStatus(response.status, this);
  }

  explain(error: unknown): HubError {
    return explainHubError(error, this);
  }
}

function checkNames(id: string, revision: string): void {
  // The hub's own rules; they also keep '..' out of the paths that are made of the names.
  if (!/^[\w.-]{1,96}(\/[\w.-]{1,96})?$/.test(id) || /\.\.|--|^[.-]|\/[.-]/.test(id)) {
    throw new HubError(`'${id}' is neither a local folder nor the id of a model, such as Qwen/Qwen3-0.6B.`);
  }
  if (!/^[\w.][\w./-]*$/.test(revision) || revision.includes('..')) {
    throw new HubError(`The revision '${revision}' must be a branch, a tag or a commit, such as main.`);
  }
}

/** Large files are known by their SHA-256, small ones by git's SHA-1. It names a file in the cache: check its form. */
function contentHash({ path: file, lfs, oid }: ListFileEntry): string {
  const hash = lfs?.oid ?? oid ?? '';
  if (/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(hash)) return hash;
  throw new HubError(`The hub lists ${file} with the hash '${hash}', which is none. Download the model by hand.`);
}

function isOffline(): boolean {
  return /^(1|true|yes|on)$/i.test(process.env.HF_HUB_OFFLINE ?? '');
}

/** HF_TOKEN, or what `hf auth login` stored. */
async function readToken(): Promise<string | undefined> {
  const fromEnvironment = process.env.HF_TOKEN?.trim();
  if (fromEnvironment) return fromEnvironment;
  const caches = process.env.XDG_CACHE_HOME || path.join(homedir(), '.cache');
  const home = process.env.HF_HOME || path.join(caches, 'huggingface');
  const stored = await readFile(process.env.HF_TOKEN_PATH || path.join(home, 'token'), 'utf8').catch(() => '');
  return stored.trim() || undefined;
}
