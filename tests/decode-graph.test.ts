// Decode steps as they reach the device: packed inputs, padded batches, graphs captured up front.
import { beforeAll, describe, expect, test, vi } from 'vitest';
import { ReferenceBackend } from '#nano/backends/reference/index';
import { graphBatchSizes } from '#nano/engine/decode-graph';
import { DecodeBuffers, DecodeInputs } from '#nano/engine/decode-inputs';
import type { LLMEngine } from '#nano/engine/llm-engine';
import type { RequestOutput } from '#nano/engine/outputs';
import { Sequence } from '#nano/engine/sequence';
import { Sampler } from '#nano/layers/sampler';
import { platform } from '#nano/platform';
import { SamplingParams } from '#nano/sampling-params';
import { Ops } from '#nano/tensor/ops';
import { TEST_BACKENDS } from './helpers/backends';
import { fakeDevice } from './helpers/fake-device';
import { TinyModel } from './helpers/tiny-model';

const OPTIONS = { numKvCacheBlocks: 32, kvCacheBlockSize: 4, maxModelLen: 32, maxNumSeqs: 20 };

test('batch sizes of graphs: 1, 2, 4, 8, then every 16, and the largest', () => {
  expect(graphBatchSizes(50)).toEqual([1, 2, 4, 8, 16, 32, 48, 50]);
  expect(graphBatchSizes(64)).toEqual([1, 2, 4, 8, 16, 32, 48, 64]);
  expect(graphBatchSizes(8)).toEqual([1, 2, 4, 8]);
  expect(graphBatchSizes(3)).toEqual([1, 2, 3]);
  expect(graphBatchSizes(1)).toEqual([1]);
});

describe('packed inputs', () => {
  const setup = (rows: number) => {
    const backend = fakeDevice(new ReferenceBackend());
    const buffers = new DecodeBuffers(backend, new Sampler(new Ops(backend, 'float32'), 9), {
      maxNumSeqs: 8,
      maxModelLen: 20,
      blockSize: 4,
    });
    const inputs = new DecodeInputs(buffers, rows);
    backend.log.length = 0;
    return { backend, buffers, inputs };
  };
  const running = (numTokens: number, blockTable: number[], tokenSlot: number, params = {}) => {
    const seq = new Sequence(
      Array.from({ length: 3 }, (_, i) => 1 + i),
      new SamplingParams(params),
      4,
    );
    while (seq.numTokens < numTokens) seq.appendPlaceholder();
    return Object.assign(seq, { blockTable, tokenSlot });
  };

  test('two sequences in a step of four: their rows, then padding, in two transfers', async () => {
    const { backend, inputs } = setup(4);
    inputs.write([
      running(9, [7, 2, 5], 3, { temperature: 0.5, topK: 40, topP: 0.9, minP: 0.1, seed: 2 ** 32 + 5 }),
      running(4, [6], 0, { temperature: 0 }),
    ]);
    expect(backend.log).toEqual(['write', 'write']);
    const values = async (tensor: Parameters<typeof backend.read>[0]) => [...(await backend.read(tensor))];
    expect(await values(inputs.positions.device)).toEqual([8, 3, 0, 0]);
    expect(await values(inputs.slotMapping.device)).toEqual([5 * 4, 6 * 4 + 3, -1, -1]);
    expect(await values(inputs.contextLens.device)).toEqual([9, 4, 0, 0]);
    expect(await values(inputs.tokenSlots.device)).toEqual([3, 0, -1, -1]);
    const none = [-1, -1, -1, -1, -1];
    const tables = [7, 2, 5, -1, -1, 6, -1, -1, -1, -1, ...none, ...none];
    expect(await values(inputs.blockTables.device)).toEqual(tables);
    const { temperature, topK, seed, position } = inputs.sampleArgs;
    expect(await values(temperature)).toEqual([0.5, 0, 0, 0]);
    expect((await values(topK)).slice(0, 2)).toEqual([40, 0]);
    expect((await values(seed)).slice(0, 2)).toEqual([5, 1]);
    expect((await values(position)).slice(0, 2)).toEqual([6, 1]); // outputs, placeholders included
  });

  test('nothing of a larger step before stays in the padding', async () => {
    const { backend, buffers, inputs } = setup(4);
    new DecodeInputs(buffers, 8).write(Array.from({ length: 8 }, (_, i) => running(20, [1, 2, 3, 4, 5], i)));
    inputs.write([running(4, [6], 0)]);
    expect([...(await backend.read(inputs.tokenSlots.device))]).toEqual([0, -1, -1, -1]);
    expect([...(await backend.read(inputs.blockTables.device))].filter((id) => id !== -1)).toEqual([6]);
  });

  test('nothing of a longer table before stays behind a shorter one', async () => {
    const { backend, inputs } = setup(4);
    inputs.write([0, 1, 2, 3].map((slot) => running(20, [1, 2, 3, 4, 5], slot)));
    inputs.write([0, 1, 2, 3].map((slot) => running(4, [6 + slot], slot)));
    const none = [-1, -1, -1, -1];
    const tables = [6, ...none, 7, ...none, 8, ...none, 9, ...none];
    expect([...(await backend.read(inputs.blockTables.device))]).toEqual(tables);
  });

  test('lie side by side, where the number of rows alone puts them', () => {
    const { buffers, inputs } = setup(4);
    const tensors = ({ positions, slotMapping, contextLens, tokenSlots, sampleArgs, blockTables }: DecodeInputs) => {
      const { topK, seed, position } = sampleArgs;
      const own = [positions, slotMapping, contextLens, tokenSlots].map(({ device }) => device);
      return [...own, topK, seed, position, blockTables.device];
    };
    let next = 0;
    for (const { offset, numel } of tensors(inputs)) {
      expect(offset).toBe(next);
      next += numel;
    }
    expect(next).toBe(4 * (8 + 5));
    const offsets = (rows: number) => tensors(new DecodeInputs(buffers, rows)).map(({ offset }) => offset);
    expect(offsets(4)).toEqual(tensors(inputs).map(({ offset }) => offset));
  });
});

async function outputsOf(engine: LLMEngine, count: number): Promise<RequestOutput[]> {
  for (let i = 0; i < count; i++)
    engine.addRequest([5 + i, 17, 2 * i], { maxTokens: 9, temperature: i % 2, logprobs: 3 });
  const outputs: RequestOutput[] = [];
  while (engine.hasUnfinishedRequests) {
    for (const { requestId, output, error } of await engine.step()) {
      if (error) throw error;
      if (output) outputs[requestId] = output;
    }
  }
  engine.close();
  return outputs;
}

describe.each(TEST_BACKENDS)('on %s', (name) => {
  test('padded steps and device graphs compute the same as exact ones, to the bit', async () => {
    const backend = platform.createBackend(name);
    const [plain, device] = [new TinyModel(backend), new TinyModel(fakeDevice(backend))];
    for (const count of [3, 5, 20]) {
      const exact = await outputsOf(plain.engine(OPTIONS), count);
      expect(await outputsOf(plain.engine({ ...OPTIONS, padDecodeBatches: true }), count)).toEqual(exact);
      expect(await outputsOf(device.engine(OPTIONS), count)).toEqual(exact);
    }
    backend.close();
  });

  test('attention and cache leave padding alone: no keys give zeros, slot -1 is not written', async () => {
    const backend = platform.createBackend(name);
    const ops = new Ops(backend, 'float32');
    const tensor = (values: number[], shape = [values.length]) => {
      const made = backend.allocate(shape, 'int32');
      backend.write(made, Int32Array.from(values));
      return made;
    };
    const floats = (shape: number[], value: number) => {
      const made = backend.allocate(shape, 'float32');
      backend.write(made, new Float32Array(made.numel).fill(value));
      return made;
    };
    const [q, k, v] = [floats([2, 2, 8], 1), floats([2, 1, 8], 2), floats([2, 1, 8], 3)];
    const caches = [floats([2, 4, 1, 8], 0), floats([2, 4, 1, 8], 0)] as const;
    const step = () => {
      ops.storeKvCache(k, v, ...caches, tensor([5, -1]));
      const args = { contextLens: tensor([2, 0]), blockTables: tensor([1, -1, -1, -1], [2, 2]) };
      return ops.attnWithKvCache(q, ...caches, { ...args, maxContextLen: 8, softmaxScale: 1, attnBackend: 'flash' });
    };
    ops.reserveFor(step);
    const out = await ops.scope(() => backend.read(step()));
    expect([...out.subarray(16)]).toEqual(Array(16).fill(0));
    expect(out[0]).toBeGreaterThan(2.9);
    expect([...(await backend.read(caches[0]))].filter((x) => x !== 0)).toHaveLength(8);
    backend.close();
  });

  test('token slots: gathered and scattered, -1 gives 0 and is not written', async () => {
    const backend = platform.createBackend(name);
    const ops = new Ops(backend, 'float32');
    const ints = (...values: number[]) => {
      const made = backend.allocate([values.length], 'int32');
      backend.write(made, Int32Array.from(values));
      return made;
    };
    const [table, slots] = [ints(10, 11, 12, 13), ints(2, -1, 0)];
    ops.reserveFor(() => ops.gatherTokens(table, slots));
    expect([...(await ops.scope(() => backend.read(ops.gatherTokens(table, slots))))]).toEqual([12, 0, 10]);
    ops.scatterTokens(table, ints(7, 8, 9), slots);
    expect([...(await backend.read(table))]).toEqual([9, 11, 7, 13]);
    expect(() => ops.scatterTokens(table, ints(7), ints(4))).toThrow(/slot/i);
    expect(() => ops.scope(() => ops.gatherTokens(table, ints(-2)))).toThrow(/slot/i);
    expect(() => ops.scatterTokens(table, ints(7, 8), slots)).toThrow(/expected slots.shape\[0\] = 2/);
    backend.close();
  });
});

describe('device graphs', () => {
  const backend = new ReferenceBackend();
  const device = fakeDevice(backend);
  let model: TinyModel;
  beforeAll(() => {
    model = new TinyModel(device);
  });

  const setup = (options = {}) => {
    const gathered = vi.spyOn(backend, 'gatherTokens').mockClear();
    device.log.length = 0;
    const engine = model.engine({ ...OPTIONS, ...options });
    const count = (what: string) => device.log.filter((entry) => entry === what).length;
    return { engine, gathered, count };
  };

  test('all sizes are captured before the first request, the largest first', async () => {
    const { engine, gathered, count } = setup();
    expect(gathered.mock.calls.map(([out]) => out.shape[0])).toEqual([20, 16, 8, 4, 2, 1]);
    expect(count('capture')).toBe(6);
    await outputsOf(engine, 20);
    expect(count('capture')).toBe(6);
  });

  test('a decode step is two writes, one launch, and the read of its tokens', async () => {
    const { engine, gathered } = setup({ runAhead: false });
    for (let i = 0; i < 3; i++) engine.addRequest([5 + i], { maxTokens: 9, temperature: 0, ignoreEos: true });
    await engine.step(); // prefill
    device.log.length = 0;
    await engine.step();
    expect(device.log).toEqual(['write', 'write', 'launch', 'read']);
    expect(gathered.mock.lastCall?.[0].shape).toEqual([4]); // three sequences, padded
  });

  test('more sizes than recordings are kept elsewhere: none is captured twice', async () => {
    const { engine, count } = setup({ maxNumSeqs: 512, numKvCacheBlocks: 8 });
    expect(count('capture')).toBe(36);
    await outputsOf(engine, 1);
    expect(count('capture')).toBe(36);
  });

  test('are freed with the engine, each once', () => {
    const { engine, count } = setup();
    engine.close();
    engine.close();
    expect(count('free')).toBe(6);
  });

  // Captured for the longest context, the dense gather would reserve its buffers for each batch size, whatever the settings.
  test.each([{ enforceEager: true }, { attnBackend: 'sdpa.math' as const }])('none with %o', async (options) => {
    const { engine, count } = setup(options);
    await outputsOf(engine, 3);
    expect(count('capture') + count('launch')).toBe(0);
  });
});
