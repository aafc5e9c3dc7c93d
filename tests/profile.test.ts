import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { LLM } from '#nano/llm';
import { Trace } from '#nano/utils/trace';
import { TEST_BACKENDS } from './helpers/backends';
import { eventsOf, type TraceEvent } from './helpers/trace-events';

test.each(TEST_BACKENDS)(
  'a profile on %s holds every step and what it did, and leaves the engine as it was',
  async (backend) => {
    const llm = await LLM.load('models/storyteller', { backend, maxModelLen: 128 });
    const params = { temperature: 0, maxTokens: 5, ignoreEos: true };
    const before = await llm.generate(
      [
        [1, 2, 3],
        [4, 5],
      ],
      params,
      { progress: false },
    );
    const end = llm.startProfile();
    const during = await llm.generate(
      [
        [1, 2, 3],
        [4, 5],
      ],
      params,
      { progress: false },
    );
    const events = eventsOf(end());
    const after = await llm.generate(
      [
        [1, 2, 3],
        [4, 5],
      ],
      params,
      { progress: false },
    );
    expect(during.map(({ tokenIds }) => tokenIds)).toEqual(before.map(({ tokenIds }) => tokenIds));
    expect(after.map(({ tokenIds }) => tokenIds)).toEqual(before.map(({ tokenIds }) => tokenIds));

    expect(events.filter(({ ph }) => ph === 'M').map(({ args }) => args?.name)).toEqual([
      'host',
      'device: launch to tokens',
    ]);
    const spans = events.filter(({ ph }) => ph === 'X');
    const named = (name: string) => spans.filter((span) => span.name === name);
    // Two prompts in one prefill, then four decode steps of both.
    const launches = spans.filter(({ name }) => name.startsWith('launch: '));
    expect(launches.map(({ name }) => name)).toEqual([
      'launch: prefill 5 tokens of 2',
      ...Array(4).fill('launch: decode 2'),
    ]);
    expect(spans.filter(({ tid }) => tid === 1).map(({ name }) => name)).toEqual(
      launches.map(({ name }) => name.slice(8)),
    );
    expect(named('postprocess').length).toBe(5);
    expect(named('schedule').length).toBeGreaterThanOrEqual(5);
    expect(named('sample').length).toBe(5);
    expect(named('attnWithKvCache').length).toBe(4 * 10);
    expect(named('linear')[0].args?.tensors).toMatch(/^float32\[5,512\] float32\[5,256\] bfloat16\[512,256\]$/);
    // Kernels lie within the launch of their step.
    for (const { ts, dur } of named('attnWithKvCache')) {
      expect(launches.some((l) => l.ts <= ts && ts + dur <= l.ts + l.dur + 1)).toBe(true);
    }
    // What ended with the profile is not recorded any more.
    expect(eventsOf(end()).length).toBe(events.length);
    await llm.close();
  },
);

test('a trace holds the times it is told, failures too, and says what it dropped', () => {
  const trace = new Trace(['one']);
  trace.add(0, 'a', performance.now(), performance.now() + 2, { n: 1 });
  expect(() =>
    trace.time(0, 'b', () => {
      throw new Error('no');
    }),
  ).toThrow('no');
  const [, a, b] = eventsOf(trace);
  expect(a).toMatchObject({ name: 'a', args: { n: 1 } });
  expect(a.dur).toBeCloseTo(2000, 0);
  expect(b.name).toBe('b');
  for (let i = 0; i < 1_000_000; i++) trace.add(0, 'c', 0, 1);
  expect((trace.toJSON() as { otherData: { dropped: string } }).otherData.dropped).toBe(
    '2 spans after the first 1000000',
  );
});

test('--profile writes it', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'profile-'));
  const { execFileSync } = await import('node:child_process');
  const file = join(folder, 'trace.json');
  execFileSync(process.execPath, ['dist/src/cli.js', '--prompt', 'Once', '--max-tokens', '3', '--profile', file], {
    stdio: 'pipe',
  });
  const { traceEvents } = JSON.parse(readFileSync(file, 'utf8')) as { traceEvents: TraceEvent[] };
  expect(traceEvents.some(({ name }) => name === 'sample' || name === 'launchGraph')).toBe(true);
  rmSync(folder, { recursive: true });
});
