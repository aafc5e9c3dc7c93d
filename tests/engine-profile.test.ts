// A profile of an engine on a backend in memory: which spans there are, and that nothing of it stays behind.
import { afterEach, describe, expect, test, vi } from 'vitest';
import { ReferenceBackend } from '#nano/backends/reference/index';
import { startProfile } from '#nano/engine/profile';
import { Ops } from '#nano/tensor/ops';
import type { Trace } from '#nano/utils/trace';
import { TINY_CONFIG, TinyModel } from './helpers/tiny-model';
import { eventsOf } from './helpers/trace-events';

const spansOf = (trace: Trace) => eventsOf(trace).filter(({ ph }) => ph === 'X');
const LAYERS = TINY_CONFIG.num_hidden_layers;
const [HOST, DEVICE] = [0, 1];

const backend = new ReferenceBackend();
const model = new TinyModel(backend);
const ops = new Ops(backend, 'float32');
afterEach(() => vi.restoreAllMocks());

function setup() {
  const engine = model.engine({ numKvCacheBlocks: 16, kvCacheBlockSize: 4, maxModelLen: 32, maxNumSeqs: 4 });
  const run = async () => {
    engine.addRequest([1, 2, 3], { temperature: 0, maxTokens: 3, ignoreEos: true });
    engine.addRequest([4, 5], { temperature: 0, maxTokens: 3, ignoreEos: true });
    while (engine.hasUnfinishedRequests) await engine.step();
  };
  return { engine, run };
}

test('on the host lie the scheduler, the launches and every kernel call; on the device a span a step', async () => {
  const { engine, run } = setup();
  const end = startProfile({ engine, ops });
  await run();
  const trace = end();
  expect(eventsOf(trace).flatMap(({ ph, args }) => (ph === 'M' ? [args?.name] : []))).toEqual([
    'host',
    'device: launch to tokens',
  ]);
  const spans = spansOf(trace);
  const names = (track: number) => spans.filter(({ tid }) => tid === track).map(({ name }) => name);
  expect(names(DEVICE)).toEqual(['prefill 5 tokens of 2', 'decode 2', 'decode 2']);
  const count = (name: string) => names(HOST).filter((other) => other === name).length;
  expect(names(HOST).filter((name) => name.startsWith('launch'))).toEqual([
    'launch: prefill 5 tokens of 2',
    'launch: decode 2',
    'launch: decode 2',
  ]);
  expect([count('schedule'), count('postprocess'), count('sample'), count('embedding')]).toEqual([3, 3, 3, 3]);
  expect([count('attnVarlen'), count('attnWithKvCache')]).toEqual([LAYERS, 2 * LAYERS]);
  expect([count('gatherRows'), count('gatherTokens'), count('scatterTokens')]).toEqual([1, 2, 3]);
  // A layer has four products, and the head one; its norms are two, those of the heads two more, and one is the last.
  expect([count('linear'), count('siluAndMul')]).toEqual([3 * (4 * LAYERS + 1), 3 * LAYERS]);
  expect([count('rmsNorm'), count('rotaryEmbedding'), count('storeKvCache')]).toEqual([
    3 * (4 * LAYERS + 1),
    3 * LAYERS,
    3 * LAYERS,
  ]);
  expect([count('write') > 0, count('read')]).toEqual([true, 3]);
});

test('a kernel call tells its tensors; what has none tells nothing', async () => {
  const { engine, run } = setup();
  const end = startProfile({ engine, ops });
  await run();
  const spans = spansOf(end());
  const first = (name: string) => spans.find((span) => span.name === name);
  expect(first('embedding')?.args).toEqual({ tensors: 'float32[5,32] int32[5] float32[61,32]' });
  for (const name of ['schedule', 'postprocess', 'launch: prefill 5 tokens of 2', 'decode 2']) {
    expect(first(name)?.args, name).toBeUndefined();
  }
});

test.each(['launchGraph', 'qkNormRopeStore', 'concatColumns'])(
  'what only some steps or backends call is timed: %s',
  (name) => {
    const { engine } = setup();
    const methods = backend as unknown as Record<string, () => void>;
    const original = methods[name];
    methods[name] = vi.fn();
    const end = startProfile({ engine, ops });
    methods[name]();
    const [span] = spansOf(end());
    expect(span).toMatchObject({ name, tid: HOST });
    expect(span.args).toBeUndefined(); // it was given no tensors
    if (original) methods[name] = original;
    else delete methods[name];
  },
);

test('the trace tells on what it was taken, and when', () => {
  const { engine } = setup();
  const { otherData } = JSON.parse(JSON.stringify(startProfile({ engine, ops })()));
  expect(otherData).toMatchObject({ device: backend.description });
  expect(otherData.date).toMatch(/^\d{4}-\d\d-\d\d$/);
});

describe('a step on the device', () => {
  test('lasts from its launch until its tokens are there', async () => {
    const { engine, run } = setup();
    const read = backend.read.bind(backend);
    vi.spyOn(backend, 'read').mockImplementation(async (tensor) => {
      await new Promise((done) => setTimeout(done, 20));
      return read(tensor);
    });
    const end = startProfile({ engine, ops });
    await run();
    const spans = spansOf(end());
    const steps = spans.filter(({ tid }) => tid === DEVICE);
    const launches = spans.filter(({ name }) => name.startsWith('launch: '));
    steps.forEach(({ ts, dur }, i) => {
      expect(ts).toBeLessThanOrEqual(launches[i].ts);
      expect(dur).toBeGreaterThan(launches[i].dur);
      expect(dur).toBeGreaterThan(15_000); // microseconds; a timer may come a little early
      if (i > 0) expect(ts).toBeGreaterThan(steps[i - 1].ts + 15_000);
    });
  });

  test('ends also when it fails', async () => {
    const { engine } = setup();
    const end = startProfile({ engine, ops });
    vi.spyOn(backend, 'read').mockRejectedValue(new Error('the device is on fire'));
    engine.addRequest([1, 2, 3], { maxTokens: 3 });
    const updates = await engine.step();
    expect(updates[0].error?.message).toBe('the device is on fire');
    expect(spansOf(end()).filter(({ tid }) => tid === DEVICE)).toHaveLength(1);
  });
});

test('when it ends, every part is as it was, and nothing is recorded any more', async () => {
  const { engine, run } = setup();
  const { scheduler, runner } = engine.parts;
  const parts: object[] = [backend, scheduler, runner];
  const methods = () => parts.map((part) => Object.entries(Object.getOwnPropertyDescriptors(part)));
  const functions = () =>
    methods().map((entries) =>
      entries.filter(([, { value }]) => typeof value === 'function').map(([name, d]) => [name, d.value]),
    );
  const before = functions();
  const end = startProfile({ engine, ops });
  expect(functions()).not.toEqual(before);
  await run();
  const trace = end();
  expect(functions()).toEqual(before);
  const { length } = spansOf(trace);
  await run();
  expect(spansOf(trace)).toHaveLength(length);
});
