import { afterAll, describe, expect, test } from 'vitest';
import { Config } from '#nano/config';
import { buildEngine } from '#nano/engine/build-engine';
import { platform } from '#nano/platform';
import { FolderFiles } from '#nano/platform/node-files';
import { TEST_BACKENDS } from './helpers/backends';
import { goldenNames, loadBareModel, promptLogits, readGolden, worstRowError } from './helpers/models';

/** What Hugging Face transformers computes in float32, and how near each dtype must come. */
const TOLERANCE = { float32: 1e-4, bfloat16: 2e-2 } as const;
const worst: Record<string, number> = {};

for (const name of goldenNames()) {
  describe.each(TEST_BACKENDS)(`${name} on %s`, (backendName) => {
    test.each(['float32', 'bfloat16'] as const)('%s logits', async (dtype) => {
      const golden = await readGolden(name);
      const backend = platform.createBackend(backendName);
      const bare = await loadBareModel(golden.folder, backend, dtype);
      for (const { tokenIds, rows, logits } of golden.prompts) {
        const actual = await promptLogits(bare, tokenIds, rows);
        const error = worstRowError(actual, logits, bare.config.vocabSize);
        worst[`${backendName} ${dtype}`] = Math.max(worst[`${backendName} ${dtype}`] ?? 0, error);
        expect(error, `prompt of ${tokenIds.length} tokens`).toBeLessThan(TOLERANCE[dtype]);
      }
      backend.close();
    });

    test('float32 greedy tokens, 64 steps, all prompts in one batch', async () => {
      const golden = await readGolden(name);
      const backend = platform.createBackend(backendName);
      const config = new Config({ dtype: 'float32', maxModelLen: 256, maxNumSeqs: 8, kvCacheBlockSize: 8 });
      const files = await FolderFiles.open(golden.folder);
      const { engine } = await buildEngine(files, config, backend, 2 ** 28, () => {});
      const sampling = { temperature: 0, maxTokens: 64, ignoreEos: true };
      const ids = golden.prompts.map((prompt) => engine.addRequest(prompt.tokenIds, sampling));
      const tokens = new Map<number, readonly number[]>();
      while (engine.hasUnfinishedRequests) {
        for (const { requestId, output } of await engine.step()) if (output) tokens.set(requestId, output.tokenIds);
      }
      expect(ids.map((id) => tokens.get(id))).toEqual(golden.prompts.map((prompt) => prompt.greedy));
      backend.close();
    });
  });
}

afterAll(() => console.log('largest relative row error by backend and dtype:', worst));
