import { defineConfig } from 'vitest/config';

// What `npm run mutation` runs for each mutant: tests of src/engine that are quick.
const conditions = ['source', 'node', 'import', 'default'];

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: {
    include: [
      'tests/{decode-graph,detokenizer,llm-engine,run-ahead,scheduler,stop-checker}.test.ts',
      'tests/engine-*.test.ts',
    ],
    testTimeout: 60_000,
  },
});
