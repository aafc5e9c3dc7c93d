import { describe, expect, test } from 'vitest';
import { platform } from '#nano/platform';
import { Ops } from '#nano/tensor/ops';
import type { Tensor } from '#nano/tensor/tensor';
import { TEST_BACKENDS } from './helpers/backends';
import { fakeDevice } from './helpers/fake-device';

describe.each(TEST_BACKENDS)('a recorded step on %s', (name) => {
  const setup = () => {
    const backend = platform.createBackend(name);
    const ops = new Ops(backend, 'float32');
    const weight = backend.allocateWeight([3, 2], 'float32');
    backend.write(weight, Float32Array.from([1, 0, 0, 1, 1, 1]));
    const input = backend.allocate([1, 2], 'float32');
    const step = (): Tensor => ops.scope(() => ops.linear(input, weight));
    ops.reserveFor(() => ops.linear(input, weight));
    return { backend, ops, weight, input, step };
  };

  test('computes with what its inputs hold at each replay', async () => {
    const { backend, ops, weight, input } = setup();
    backend.write(input, Float32Array.from([1, 1]));
    const recording = ops.record(() => ops.linear(input, weight));
    const replay = () => recording.replay(backend, (out) => backend.read(out));
    backend.write(input, Float32Array.from([2, 5]));
    expect([...(await replay())]).toEqual([2, 5, 7]);
    backend.write(input, Float32Array.from([-1, 3]));
    expect([...(await replay())]).toEqual([-1, 3, 2]);
    backend.close();
  });

  test('recording itself computes nothing', async () => {
    const { backend, ops, weight, input } = setup();
    const out = backend.allocate([1, 3], 'float32');
    backend.write(input, Float32Array.from([4, 4]));
    ops.record(() => ops.linear(input, weight, { out }));
    expect([...(await backend.read(out))]).toEqual([0, 0, 0]);
    backend.close();
  });

  test('refuses host values, which would be the same at every replay', () => {
    const { backend, ops } = setup();
    expect(() => ops.record(() => ops.fromHost(Int32Array.of(1)))).toThrow(/cannot enter a recorded step/);
    backend.close();
  });

  test('can only begin where the arena is empty, so that addresses repeat', () => {
    const { backend, ops, weight, input } = setup();
    ops.scope(() => {
      ops.empty([1, 1]);
      expect(() => ops.record(() => ops.linear(input, weight))).toThrow(/captured from its beginning/);
    });
    backend.close();
  });

  test('its tensors are dead between replays', () => {
    const { backend, ops, weight, input } = setup();
    const recording = ops.record(() => ops.linear(input, weight));
    let kept: Tensor | undefined;
    recording.replay(backend, (out) => {
      kept = out;
    });
    expect(() => kept?.assertAlive()).toThrow(/memory was given back/);
    backend.close();
  });

  test('tensors of an eager scope die with it', () => {
    const { backend, ops, step } = setup();
    const out = step();
    expect(() => ops.rmsNorm(out, out, 1e-6)).toThrow(/memory was given back/);
    backend.close();
  });

  test('where the device has graphs, the calls become one, which is freed with the recording', async () => {
    const backend = platform.createBackend(name);
    const device = fakeDevice(backend);
    const ops = new Ops(device, 'float32');
    const weight = device.allocateWeight([1, 2], 'float32');
    device.write(weight, Float32Array.from([2, 3]));
    const input = device.allocate([1, 2], 'float32');
    const step = () => ops.linear(input, weight);
    ops.reserveFor(step);
    const recording = ops.record(step);
    expect(device.log.filter((entry) => entry === 'capture')).toHaveLength(1);
    device.write(input, Float32Array.from([1, 1]));
    device.log.length = 0;
    expect([...(await recording.replay(device, (out) => device.read(out)))]).toEqual([5]);
    expect(device.log).toEqual(['launch', 'read']);
    recording.free();
    expect(device.log.at(-1)).toBe('free');
    backend.close();
  });

  test('replayed attention counts, on graphs too', () => {
    const backend = platform.createBackend(name);
    for (const on of [backend, fakeDevice(backend)]) {
      const ops = new Ops(on, 'float32');
      const cache = on.allocate([1, 4, 1, 8], 'float32');
      const [contextLens, blockTables] = [on.allocate([1], 'int32'), on.allocate([1, 1], 'int32')];
      const args = { contextLens, blockTables, maxContextLen: 4, softmaxScale: 1, attnBackend: 'flash' } as const;
      const q = on.allocate([1, 2, 8], 'float32');
      const step = () => ops.attnWithKvCache(q, cache, cache, args);
      ops.reserveFor(step);
      const recording = ops.record(step);
      expect(ops.attnCalls.flash).toBe(0);
      recording.replay(on, () => {});
      recording.replay(on, () => {});
      ops.scope(step);
      expect(ops.attnCalls).toEqual({ flash: 3, 'sdpa.math': 0 });
    }
    backend.close();
  });
});
