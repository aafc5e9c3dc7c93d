import { expect, test } from 'vitest';
import type { EngineCounters } from '#nano/engine/llm-engine';
import type { RequestUpdate } from '#nano/engine/outputs';
import { Progress } from '#nano/utils/progress';

test('the progress line counts requests and shows both speeds since it began', () => {
  const counters = { prefillTokens: 100, prefillSeconds: 1, decodeTokens: 7, decodeSeconds: 7 } as EngineCounters;
  const lines: (string | null)[] = [];
  const progress = new Progress(2, counters, (line) => lines.push(line));
  const finished = { output: {} } as RequestUpdate;
  Object.assign(counters, { prefillTokens: 300, prefillSeconds: 1.5 });
  progress.update(finished);
  Object.assign(counters, { decodeTokens: 57, decodeSeconds: 8 });
  progress.update(finished);
  progress.done();
  expect(lines[0]).toMatch(/█{10}░{10} 1\/2 · prefill 400 · decode – tok\/s/);
  expect(lines[1]).toMatch(/█{20} 2\/2 · prefill 400 · decode 50 tok\/s/);
  expect(lines.at(-1)).toBeNull();
});
