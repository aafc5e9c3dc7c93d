import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { configDefaults, defineConfig, type TestProjectConfiguration } from 'vitest/config';
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

const anywhere: TestProjectConfiguration = {
  extends: true,
  test: {
    name: 'anywhere',
    include: ['tests/**/*.test.ts'],
    exclude: [...configDefaults.exclude, 'tests/cuda/**', ...(hasAddon ? [] : ['tests/kernels/native.test.ts'])],
    sequence: { groupOrder: 0 },
  },
};

// One file after the other, when all else is done: they share a GPU, and some look at how much of its memory is free.
const gpu: TestProjectConfiguration = {
  extends: true,
  test: { name: 'gpu', include: ['tests/cuda/**/*.test.ts'], fileParallelism: false, sequence: { groupOrder: 1 } },
};

export default defineConfig({
  resolve: { conditions, alias },
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: {
    testTimeout: 60_000,
    // `npm run coverage`. Ranks in threads and processes of their own are not counted.
    coverage: {
      include: ['src/{engine,layers,models}/**'],
      reporter: [['text', { skipFull: true }]],
      reportsDirectory: 'build/coverage',
      thresholds: { lines: 100 },
    },
    ...(checkpoint ? { include: [`days/day${checkpoint}/checkpoint.test.ts`] } : { projects: [anywhere, gpu] }),
  },
});
