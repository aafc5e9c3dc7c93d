import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { lstat, mkdir, mkdtemp, readdir, readFile, readlink, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { HubError } from '#nano/errors';
import { downloadModel } from '#nano/utils/hub';
import { COMMIT, FakeHub } from './helpers/fake-hub';

// The pauses between tries.
vi.mock('node:timers/promises', () => ({ setTimeout: async () => {} }));

const ID = 'Some/Model-1B';
const weights = Buffer.from(Uint8Array.from({ length: 200_000 }, (_, i) => (i * 31) >> 3));
const MODEL = {
  'config.json': Buffer.from('{"model_type": "qwen3"}'),
  'generation_config.json': Buffer.from('{}'),
  'tokenizer.json': Buffer.from('{"model": {}}'),
  'tokenizer_config.json': Buffer.from('{"eos_token": "x"}'),
  'chat_template.jinja': Buffer.from('hello'),
  'model.safetensors': weights,
  'README.md': Buffer.from('not needed'),
  'pytorch_model.bin': Buffer.from('not needed'),
};

let hub: FakeHub;
let home: string;

beforeEach(async () => {
  hub = new FakeHub(ID, { ...MODEL });
  home = await mkdtemp(path.join(tmpdir(), 'nano-hub-'));
  for (const name of ['HF_HUB_CACHE', 'HUGGINGFACE_HUB_CACHE', 'HF_TOKEN', 'HF_TOKEN_PATH', 'HF_HUB_OFFLINE']) {
    vi.stubEnv(name, undefined);
  }
  vi.stubEnv('HF_HOME', home);
  vi.stubEnv('HF_ENDPOINT', await hub.start());
});

afterEach(async () => {
  vi.unstubAllEnvs();
  await hub.stop();
  await rm(home, { recursive: true });
});

const repo = () => path.join(home, 'hub', 'models--Some--Model-1B');
const blobs = () => readdir(path.join(repo(), 'blobs'));

// Not toEqual, which looks at every byte of its own accord, slowly.
async function expectWeights(folder: string): Promise<void> {
  expect(weights.equals(await readFile(path.join(folder, 'model.safetensors')))).toBe(true);
}

async function failure(run: Promise<unknown>): Promise<string> {
  const error = await run.catch((e: unknown) => e);
  expect(error).toBeInstanceOf(HubError);
  return (error as Error).message;
}

describe('a download', () => {
  test('brings the needed files, in the layout of the shared cache', async () => {
    const seen = new Map<string, number[]>();
    const folder = await downloadModel(ID, {
      onProgress: (file, done, total) => {
        expect(total).toBe(MODEL[file as keyof typeof MODEL].length);
        seen.set(file, [...(seen.get(file) ?? []), done]);
      },
    });
    expect(folder).toBe(path.join(repo(), 'snapshots', COMMIT));
    const { 'README.md': _, 'pytorch_model.bin': __, ...needed } = MODEL;
    expect((await readdir(folder)).sort()).toEqual(Object.keys(needed).sort());
    for (const [file, content] of Object.entries(needed)) {
      expect(content.equals(await readFile(path.join(folder, file))), file).toBe(true);
      expect(seen.get(file)?.at(-1)).toBe(content.length);
    }
    const link = path.join(folder, 'model.safetensors');
    expect((await lstat(link)).isSymbolicLink()).toBe(true);
    expect(await readlink(link)).toMatch(/^\.\.\/\.\.\/blobs\/[0-9a-f]{64}$/);
    expect(await readFile(path.join(repo(), 'refs', 'main'), 'utf8')).toBe(COMMIT);
    expect((await blobs()).some((name) => name.endsWith('.incomplete'))).toBe(false);
  });

  test('is not repeated: the second load asks for no file', async () => {
    const folder = await downloadModel(ID);
    expect(hub.bodies).toHaveLength(6);
    hub.requests.length = 0;
    expect(await downloadModel(ID)).toBe(folder);
    expect(hub.bodies).toEqual([]);
  });

  test('of a new commit brings only what changed', async () => {
    await downloadModel(ID);
    hub.requests.length = 0;
    hub.commit = 'd'.repeat(40);
    hub.files['config.json'] = Buffer.from('{"model_type": "qwen3", "changed": true}');
    expect(path.basename(await downloadModel(ID))).toBe(hub.commit);
    expect(hub.bodies).toEqual(['config.json']);
  });

  test('takes shards where there is no whole file, and whole files only where there is one', async () => {
    hub.files['model-00001-of-00001.safetensors'] = weights.subarray(1);
    expect(await readdir(await downloadModel(ID))).not.toContain('model-00001-of-00001.safetensors');
    delete hub.files['model.safetensors'];
    hub.files['model.safetensors.index.json'] = Buffer.from(
      '{"weight_map": {"a": "model-00001-of-00001.safetensors"}}',
    );
    hub.commit = 'e'.repeat(40);
    const files = await readdir(await downloadModel(ID));
    expect(files).toEqual(expect.arrayContaining(['model-00001-of-00001.safetensors', 'model.safetensors.index.json']));
    vi.stubEnv('HF_HUB_OFFLINE', '1');
    expect(path.basename(await downloadModel(ID))).toBe(hub.commit);
  });

  test('sends HF_TOKEN to the hub, and not to the store it redirects to', async () => {
    vi.stubEnv('HF_TOKEN', 'hf_secret');
    await downloadModel(ID);
    for (const { path: asked, authorization } of hub.requests) {
      expect(authorization, asked).toBe(asked.startsWith('/stored/') ? undefined : 'Bearer hf_secret');
    }
    expect(hub.requests.some(({ path: asked }) => asked.startsWith('/stored/'))).toBe(true);
  });

  test("uses the token that 'hf auth login' stored", async () => {
    await writeFile(path.join(home, 'token'), 'hf_stored\n');
    await downloadModel(ID);
    expect(hub.requests[0].authorization).toBe('Bearer hf_stored');
  });
});

describe('an interrupted download', () => {
  test('goes on by itself, from where it stopped', async () => {
    hub.cuts = [50_000, 60_000];
    const done: number[] = [];
    const folder = await downloadModel(ID, {
      onProgress: (file, bytes) => {
        if (file === 'model.safetensors') done.push(bytes);
      },
    });
    await expectWeights(folder);
    expect(hub.bodies.slice(-3)).toEqual([
      'model.safetensors',
      'model.safetensors bytes=50000-',
      'model.safetensors bytes=110000-',
    ]);
    expect(done).toEqual([...done].sort((a, b) => a - b));
  });

  test('goes on in the next run', async () => {
    hub.cuts = [70_000, 0, 0, 0, 0, 0];
    const message = await failure(downloadModel(ID));
    expect(message).toMatch(/model\.safetensors stopped at 70000 of 200000 bytes: .*Start again to continue/);
    expect((await blobs()).filter((name) => name.endsWith('.incomplete'))).toHaveLength(1);
    await expect(readFile(path.join(repo(), 'refs', 'main'))).rejects.toThrow('ENOENT');

    hub.cuts = [];
    hub.requests.length = 0;
    const progress: number[] = [];
    const folder = await downloadModel(ID, { onProgress: (_, bytes) => progress.push(bytes) });
    expect(hub.bodies).toEqual(['model.safetensors bytes=70000-']);
    expect(progress[0]).toBe(70_000);
    await expectWeights(folder);
  });

  test('starts again where the server does not know ranges', async () => {
    hub.cuts = [50_000];
    hub.ignoreRanges = true;
    const folder = await downloadModel(ID);
    await expectWeights(folder);
  });

  test('whose rest does not fit is thrown away, and whole the next time', async () => {
    hub.cuts = [50_000];
    hub.damage = true;
    expect(await failure(downloadModel(ID))).toContain('model.safetensors arrived damaged');
    hub.damage = false;
    const folder = await downloadModel(ID);
    await expectWeights(folder);
  });
});

describe('says what to do', () => {
  test.each([
    [401, 'does not exist, or is private or gated. Check the name, or set HF_TOKEN'],
    [403, "Access to 'Some/Model-1B' must be granted first: accept its conditions on"],
    [404, "no model 'Some/Model-1B' with the revision 'main'. Check both, or give a local folder"],
    [429, 'Wait a few minutes'],
    [503, 'The hub has trouble. Try again later'],
  ])('when the hub answers %d', async (status, message) => {
    hub.status = status;
    expect(await failure(downloadModel(ID))).toContain(message);
  });

  test('when the token is not valid', async () => {
    hub.status = 401;
    vi.stubEnv('HF_TOKEN', 'hf_old');
    const message = await failure(downloadModel(ID));
    expect(message).toContain('HF_TOKEN is not valid for it');
    expect(message).not.toContain('hf_old');
  });

  test('when a file cannot be had', async () => {
    const list = hub.files;
    Object.defineProperty(hub, 'files', { value: new Proxy(list, { has: (_, file) => file !== 'tokenizer.json' }) });
    expect(await failure(downloadModel(ID))).toContain('answered 404');
  });

  test('when nothing answers', async () => {
    vi.stubEnv('HF_ENDPOINT', 'http://127.0.0.1:9');
    expect(await failure(downloadModel(ID))).toMatch(
      /127\.0\.0\.1:9 cannot be reached \(.+\)\. Check the network, set HF_ENDPOINT/,
    );
  });

  test('when the cache cannot be written', async () => {
    await writeFile(path.join(home, 'hub'), 'a file where a folder should be');
    expect(await failure(downloadModel(ID))).toMatch(/could not be downloaded into .*hub: .*HF_HOME/);
  });

  test.skipIf(!existsSync('/dev/full'))('when the disk is full', async () => {
    await mkdir(path.join(repo(), 'blobs'), { recursive: true });
    const hash = createHash('sha256').update(weights).digest('hex');
    await symlink('/dev/full', path.join(repo(), 'blobs', `${hash}.incomplete`));
    expect(await failure(downloadModel(ID))).toMatch(
      /The disk of the cache .* is full\. Make room and start again to continue, or set HF_HOME/,
    );
  });

  test('when there are no safetensors', async () => {
    delete hub.files['model.safetensors'];
    expect(await failure(downloadModel(ID))).toContain('has no .safetensors weights');
  });

  test.each(['', 'a/b/c', '../etc', 'a/..', '/abs', 'a b', './models', 'a/b?x', 'C:\\models', 'a--b/c'])(
    'for the id %j',
    async (id) => {
      expect(await failure(downloadModel(id))).toContain('neither a local folder nor the id of a model');
      expect(hub.requests).toEqual([]);
    },
  );

  test.each(['../../x', '/x', '-x', 'a b'])('for the revision %j', async (revision) => {
    expect(await failure(downloadModel(ID, { revision }))).toContain('must be a branch, a tag or a commit');
  });
});

describe('without the hub', () => {
  test('HF_HUB_OFFLINE=1 uses the cache and asks nobody', async () => {
    const folder = await downloadModel(ID, { revision: 'refs/pr/1' });
    hub.requests.length = 0;
    vi.stubEnv('HF_HUB_OFFLINE', '1');
    expect(await downloadModel(ID, { revision: 'refs/pr/1' })).toBe(folder);
    expect(await downloadModel(ID, { revision: COMMIT })).toBe(folder);
    expect(await failure(downloadModel(ID))).toContain('is not in the cache');
    expect(hub.requests).toEqual([]);
  });

  test('a half-downloaded model does not count', async () => {
    hub.cuts = [1000, 0, 0, 0, 0, 0];
    await failure(downloadModel(ID));
    vi.stubEnv('HF_HUB_OFFLINE', '1');
    expect(await failure(downloadModel(ID, { revision: COMMIT }))).toContain('Unset it to download');
  });

  test('a hub that cannot be reached does not matter when the model is here', async () => {
    const folder = await downloadModel(ID);
    vi.stubEnv('HF_ENDPOINT', 'http://127.0.0.1:9');
    expect(await downloadModel(ID)).toBe(folder);
  });
});
