import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test, vi } from 'vitest';
import { LLM } from '#nano/llm';
import { FakeHub } from './helpers/fake-hub';

const FOLDER = fileURLToPath(new URL('goldens/sharded-gqa4-d64', import.meta.url));

test('LLM.load takes a hub id: downloads two shards once, then generates from the cache', async () => {
  const files = readdirSync(FOLDER).filter((file) => /config|^model/.test(file));
  const hub = new FakeHub('Some/Sharded', Object.fromEntries(files.map((f) => [f, readFileSync(join(FOLDER, f))])));
  const home = mkdtempSync(join(tmpdir(), 'nano-hub-'));
  for (const name of ['HF_HUB_CACHE', 'HF_TOKEN', 'HF_HUB_OFFLINE']) vi.stubEnv(name, undefined);
  vi.stubEnv('HF_HOME', home);
  vi.stubEnv('HF_ENDPOINT', await hub.start());
  const generate = async (model: string) => {
    const llm = await LLM.load(model, { maxModelLen: 64 });
    const [{ tokenIds }] = await llm.generate([[1, 2, 3]], { temperature: 0, maxTokens: 8, ignoreEos: true });
    await llm.close();
    return tokenIds;
  };
  try {
    const tokens = await generate('Some/Sharded');
    expect(hub.bodies.filter((name) => name.includes('-of-00002'))).toHaveLength(2);
    const asked = hub.bodies.length;
    expect(await generate('Some/Sharded')).toEqual(tokens);
    expect(hub.bodies).toHaveLength(asked);
    expect(await generate(FOLDER)).toEqual(tokens);
    await expect(LLM.load('Some/Other')).rejects.toThrow(/Some\/Other/);
  } finally {
    vi.unstubAllEnvs();
    await hub.stop();
    rmSync(home, { recursive: true });
  }
});
