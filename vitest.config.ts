import { resolve } from 'node:path';
import { defineConfig } from 'vitest/config';
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

export default defineConfig({
  resolve: { conditions, alias },
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: {
    include: checkpoint ? [`days/day${checkpoint}/checkpoint.test.ts`] : ['tests/**/*.test.ts'],
    testTimeout: 60_000,
  },
});
