import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { backends, isOutOfMemory } from '#nano/bench/backends';
import { compareWithBaseline } from '#nano/bench/baseline';
import { compare } from '#nano/bench/compare';
import { denseBytes, memory } from '#nano/bench/memory';
import type { BenchContext } from '#nano/bench/options';
import { render } from '#nano/bench/report';
import { SHAPES } from '#nano/bench/shapes';
import { BackendError, ConfigError } from '#nano/errors';
import { parseModelConfig } from '#nano/models/model-config';
import { TEST_BACKENDS } from './helpers/backends';

const context = (more: Partial<BenchContext>): BenchContext => ({
  shape: 'tiny',
  repeats: 1,
  options: { backend: TEST_BACKENDS[TEST_BACKENDS.length - 1] },
  limits: () => undefined,
  log: () => {},
  ...more,
});

test('backends: a rate for each way to attend, and where flash begins to win', async () => {
  const rows = await backends(context({ batch: [1, 2], inputLen: [16, 32] }));
  const cells = rows.filter(({ table }) => table);
  expect(cells.map(({ what, column }) => `${what} ${column}`)).toEqual(
    ['1 × 16', '1 × 32', '2 × 16', '2 × 32'].flatMap((what) => [`${what} flash`, `${what} sdpa.math`]),
  );
  for (const { value } of cells) expect(value).toBeGreaterThan(0);
  expect(rows.slice(0, 2).map(({ what }) => what)).toEqual([1, 2].map((n) => `${n} at once: flash is faster from`));
  for (const { value } of rows.slice(0, 2)) expect([16, 32, null]).toContain(value);
});

test('backends: a length whose answer would not fit is refused with the limit', async () => {
  const refused = backends(context({ inputLen: [16, 20481] }));
  await expect(refused).rejects.toThrow(ConfigError);
  await expect(refused).rejects.toThrow(
    '--input-len 20481: as many tokens out as in need a maxModelLen of 40962, and tiny has 40960 positions. Use at most 20480.',
  );
});

test('memory: the dense baseline grows by the formula, the paged kernels by nothing', async () => {
  const rows = await memory(context({ batch: [4], inputLen: [256, 512] }));
  const value = (what: string, column: string) =>
    rows.find((row) => row.what === what && row.column === column)?.value as number;
  const model = parseModelConfig(JSON.stringify(SHAPES.tiny), 'tiny');
  for (const length of [256, 512]) {
    const extra = value(`4 × ${length}`, 'sdpa.math') - value(`4 × ${length}`, 'flash');
    // Temporaries end at cache lines, and those of other layers lie beneath.
    expect(Math.abs(extra * 2 ** 20 - denseBytes(model, 4, length))).toBeLessThan(0.05 * denseBytes(model, 4, length));
  }
});

test('a run beside a stored one: what is worse, what is better, what is missing', () => {
  const row = (what: string, value: number | null, unit: string) => ({ what, value, unit });
  const stored = [
    row('rate', 100, 'tok/s'),
    row('time', 10, 'ms'),
    row('steps', 5, ''),
    row('gone', 1, 's'),
    row('near', 100, 'ms'),
  ];
  const now = [
    row('rate', 200, 'tok/s'),
    row('time', 12, 'ms'),
    row('steps', 9, ''),
    row('new', 1, 's'),
    row('near', 104, 'ms'),
  ];
  const { lines, numWorse } = compareWithBaseline(now, stored, 0.1);
  expect(numWorse).toBe(1);
  expect(lines).toEqual([
    'worse   time: 10.00 → 12.00 ms',
    'better  rate: 100.0 → 200.0 tok/s',
    'missing  gone',
    '4 figures compared: 1 worse and 1 better by more than 10 %.',
  ]);
  expect(compareWithBaseline(now, stored, 0.25).numWorse).toBe(0);
  expect(
    compareWithBaseline([row('rate', 80, 'tok/s')], [row('rate', 100, 'tok/s')], 0.2).numWorse,
    '100 / 80 is 1.25',
  ).toBe(1);
});

const python = join(import.meta.dirname, 'helpers/fake-python.mjs');
const toCompare = { batch: [1, 2], inputLen: [8], outputLen: 4, python };

/** What the stand-in for Python shall say of nano-vllm, until the test ends. */
function withNanoVllm(value: string): void {
  vi.stubEnv('WITH_NANO_VLLM', value);
  onTestFinished(() => void vi.unstubAllEnvs());
}

test('compare: the same requests through another engine, with ratios', async () => {
  const rows = await compare(context(toCompare));
  const value = (what: string, column: string) => rows.find((row) => row.what === what && row.column === column);
  const own = value('1×8×4', 'nano-vllm-ts')?.value as number;
  expect(own).toBeGreaterThan(0);
  expect(value('1×8×4', 'transformers')?.value).toBe(10);
  expect(value('1×8×4', 'nano-vllm-ts / transformers')?.value).toBeCloseTo(own / 10);
  expect(value('2×8×4', 'transformers')).toMatchObject({ value: null, note: 'OOM' });
  expect(rows.some(({ column }) => column === 'nano-vllm')).toBe(false);
  await expect(compare(context({ ...toCompare, batch: [1], python: '/no/python' }))).rejects.toThrow(
    /transformers did not run: .*\/no\/python.*--python names a Python that has torch and transformers/,
  );
});

test('compare: nano-vllm too, where it is installed', async () => {
  withNanoVllm('1');
  const rows = await compare(context(toCompare));
  const value = (column: string) => rows.find((row) => row.what === '1×8×4' && row.column === column)?.value as number;
  expect([value('transformers'), value('nano-vllm')]).toEqual([10, 20]);
  expect(value('nano-vllm-ts / nano-vllm')).toBeCloseTo(value('nano-vllm-ts') / 20);
});

test('compare: an engine that fails costs the others nothing', async () => {
  withNanoVllm('broken');
  const said: string[] = [];
  const rows = await compare(context({ ...toCompare, log: (line) => void said.push(line) }));
  expect([...new Set(rows.map(({ column }) => column))]).toEqual(['nano-vllm-ts', 'transformers', 'nano-vllm-ts / transformers']); // biome-ignore format: one line
  expect(said.at(-1)).toMatch(/^nano-vllm did not run: .*no GPU/);
});

test('what does not fit is an entry of the table', () => {
  expect(isOutOfMemory(new BackendError('Out of GPU memory: 5 bytes were asked for'))).toBe(true);
  expect(isOutOfMemory(new BackendError('The cpu backend was used after it was closed.'))).toBe(false);
  const row = { table: 'T', what: '64 × 4096', unit: 'tok/s' };
  const text = render([
    { ...row, column: 'flash', value: 1234 },
    { ...row, column: 'sdpa.math', value: null, note: 'OOM' },
  ]);
  expect(text).toMatch(/64 × 4096\s+1234\s+OOM/);
});
