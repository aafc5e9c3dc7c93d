import { defineConfig } from 'vitest/config';

// `source` makes #nano/… resolve to the TypeScript in src/. A checkpoint run adds the conditions of the
// learner's days, so that those files come from days/ instead.
const conditions = ['source', ...(process.env.NANOVLLM_CONDITIONS?.split(',') ?? []), 'node', 'import', 'default'];

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: {
    include: ['tests/**/*.test.ts'],
    testTimeout: 60_000,
  },
});
