import { afterAll, describe, expect, test } from 'vitest';
import { Config } from '#nano/config';
import { buildEngine } from '#nano/engine/build-engine';
import { platform } from '#nano/platform';
import { FolderFiles } from '#nano/platform/node-files';
import { TEST_BACKENDS } from './helpers/backends';
import { goldenNames, loadBareModel, promptLogits, readGolden, worstRowError } from './helpers/models';

/**
 * How near each dtype must come to what Hugging Face transformers computes in float32 from the same weights. float16 has
 * three bits more than bfloat16: an eighth of its error.
 */
const TOLERANCE = { float32: 1e-4, bfloat16: 2e-2, float16: 2.5e-3 } as const;
const worst: Record<string, number> = {};

for (const name of goldenNames()) {
  describe.each(TEST_BACKENDS)(`${name} on %s`, (backendName) => {
    // In float32, and in the checkpoint's own dtype: any other would compare different weights.
    test.each(['float32', 'own'] as const)('%s logits', async (which) => {
      const golden = await readGolden(name);
      const dtype = which === 'float32' ? which : golden.dtype;
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

    test('float32 greedy tokens, all prompts in one batch', async () => {
      const golden = await readGolden(name);
      const backend = platform.createBackend(backendName);
      const config = new Config({ dtype: 'float32', maxModelLen: 256, maxNumSeqs: 8, kvCacheBlockSize: 8 });
      const files = await FolderFiles.open(golden.folder);
      const { engine } = await buildEngine(
        files,
        config,
        backend,
        () => 2 ** 28,
        () => {},
      );
      // 64 of them for each prompt (make_goldens.py).
      const sampling = { temperature: 0, maxTokens: 64, ignoreEos: true };
      const ids = golden.prompts.map(({ tokenIds }) => engine.addRequest(tokenIds, sampling));
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
