import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { configDefaults, defineConfig } from 'vitest/config';
import { listExercises } from './scripts/days.mjs';

// `source` makes #nano/… resolve to the TypeScript in src/. A checkpoint run (scripts/checkpoint.mjs) adds the
// condition of its day, so that the files of that day come from days/ instead.
const checkpoint = process.env.NANOVLLM_CHECKPOINT;
const conditions = ['source', process.env.NANOVLLM_CONDITIONS ?? '', 'node', 'import', 'default'].filter(Boolean);

// The tests of the course grade exercises that lie elsewhere than in days/.
const elsewhere = process.env.NANOVLLM_EXERCISES;
const alias = elsewhere
  ? listExercises()
      .filter(({ day }) => String(day) === checkpoint)
      .map(({ specifier, exercise }) => ({
        find: new RegExp(`^${specifier}$`),
        replacement: resolve(elsewhere, exercise.split('/').at(-1) as string),
      }))
  : [];

// Without a compiler there is no addon, and its own tests have nothing to test. CI must not get away with that.
const hasAddon = existsSync('build/Release/nanovllm.node') || Boolean(process.env.NANOVLLM_REQUIRE_CPU);

export default defineConfig({
  resolve: { conditions, alias },
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: {
    include: checkpoint ? [`days/day${checkpoint}/checkpoint.test.ts`] : ['tests/**/*.test.ts'],
    exclude: [...configDefaults.exclude, ...(hasAddon ? [] : ['tests/kernels/native.test.ts'])],
    testTimeout: 60_000,
  },
});
