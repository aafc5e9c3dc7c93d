// Groups of GPUs: what collectives give, in graphs and without, and what happens when a rank is lost. The ranks are processes
// (nccl-rank.ts), as in a real run.
import { type ChildProcess, fork, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { buildSync } from 'esbuild';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { type CudaAddon, findAddon } from '#nano/backends/addon';
import { CudaBackend, createCudaBackend, cudaDeviceCount, loadCudaAddon } from '#nano/backends/cuda';
import { NcclGroup } from '#nano/distributed/nccl-group';
import { BackendError, DistributedError, InvalidTensorError } from '#nano/errors';
import { roundTo } from '#nano/tensor/dtype';
import { Tensor } from '#nano/tensor/tensor';
import { HAS_CUDA } from '../helpers/backends';
import { put, RandomInputs } from '../helpers/random';
import type { Answer, Order, Orders } from './nccl-rank';

const addonFile = findAddon('nanovllm_cuda');
/** Stricter than equal numbers, and quicker than looking at each. */
const sameBits = (a: ArrayBufferView, b: ArrayBufferView) =>
  Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(Buffer.from(b.buffer, b.byteOffset, b.byteLength));
const sleep = (ms: number) => new Promise((done) => setTimeout(done, ms));

/** Why these tests cannot run with this many GPUs; empty when they can. */
function missingFor(gpus: number): string {
  if (!HAS_CUDA || cudaDeviceCount() < gpus) return `skipped: ${gpus} GPUs are needed, ${cudaDeviceCount()} are there`;
  try {
    loadCudaAddon().ncclVersion();
    return '';
  } catch (error) {
    return `skipped: ${(error as Error).message.split('\n')[0]}`;
  }
}

/** A process that obeys. */
class Rank {
  private static readonly program = fileURLToPath(new URL('../../dist/tests/nccl-rank.mjs', import.meta.url));
  private readonly process: ChildProcess;
  private readonly waiting = new Map<number, (answer: Answer) => void>();
  private sent = 0;

  static build(): void {
    const source = fileURLToPath(new URL('nccl-rank.ts', import.meta.url));
    const options = { bundle: true, platform: 'node', format: 'esm', packages: 'external' } as const;
    buildSync({ entryPoints: [source], outfile: Rank.program, conditions: ['source'], ...options });
  }

  constructor() {
    this.process = fork(Rank.program, { serialization: 'advanced', execArgv: [] });
    this.process.on('message', (answer: Answer) => this.waiting.get(answer.number)?.(answer));
    this.process.on('exit', (code, signal) => {
      for (const [number, settle] of this.waiting) settle({ number, error: `the rank ended: ${code ?? signal}` });
    });
  }

  async obey<Name extends keyof Orders>(
    name: Name,
    args?: Parameters<Orders[Name]>[0],
  ): Promise<Awaited<ReturnType<Orders[Name]>>> {
    const number = ++this.sent;
    const answer = await new Promise<Answer>((settle) => {
      this.waiting.set(number, settle);
      this.process.send({ number, name, args } satisfies Order);
    });
    this.waiting.delete(number);
    if ('error' in answer) throw new Error(answer.error);
    return answer.value as Awaited<ReturnType<Orders[Name]>>;
  }

  async kill(): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const ended = once(this.process, 'exit');
    this.process.kill('SIGKILL');
    await ended;
  }

  /** Without force. */
  async end(): Promise<void> {
    const ended = once(this.process, 'exit');
    this.process.disconnect();
    expect(await ended).toEqual([0, null]);
  }
}

const missing = missingFor(2);
describe.skipIf(missing)(`ranks on GPUs of their own ${missing}`, () => {
  const random = new RandomInputs('nccl');
  const worldSize = Math.min(4, cudaDeviceCount());
  let ranks: Rank[] = [];

  beforeAll(() => Rank.build());
  afterEach(async () => {
    for (const rank of ranks) await rank.kill();
  });

  async function connect(): Promise<void> {
    ranks = Array.from({ length: worldSize }, () => new Rank());
    const uniqueId = await ranks[0].obey('uniqueId');
    await all('connect', (rank) => ({ uniqueId, rank, worldSize }));
  }

  /** All ranks do it, each with its own arguments. */
  const all = <Name extends keyof Orders>(name: Name, args?: (rank: number) => Parameters<Orders[Name]>[0]) =>
    Promise.all(ranks.map((rank, r) => rank.obey(name, args?.(r))));

  test('sums, gathers and broadcasts of many sizes', async () => {
    await connect();
    for (const dtype of ['bfloat16', 'float16', 'float32'] as const) {
      for (const size of [1, 7, 1000, 1_000_000]) {
        const inputs = ranks.map(() => random.normals(size, dtype));
        const sums = await all('allReduce', (r) => ({ values: inputs[r], dtype }));
        // A rounding for each addition, of a number that is not larger than the sum of magnitudes.
        const unit = { bfloat16: 2 ** -8, float16: 2 ** -11, float32: 2 ** -24 }[dtype];
        const worst = Array.from(sums[0], (sum, i) => {
          const terms = inputs.map((x) => x[i]);
          const exact = terms.reduce((a, b) => a + b);
          const magnitude = terms.reduce((a, b) => a + Math.abs(b), 0);
          return Math.abs(sum - exact) / (magnitude * unit * (worldSize - 1));
        }).reduce((a, b) => Math.max(a, b));
        expect(worst, `${dtype}, ${size}`).toBeLessThanOrEqual(1);
        for (const other of sums) expect(sameBits(other, sums[0]), `${dtype}, ${size}`).toBe(true);

        const gathered = await all('allGather', (r) => ({ values: inputs[r], dtype }));
        for (const got of gathered) {
          const parts = inputs.map((_, r) => got.subarray(r * size, (r + 1) * size));
          for (const [r, part] of parts.entries()) expect(sameBits(part, inputs[r])).toBe(true);
        }

        const root = random.below(worldSize);
        const copies = await all('broadcast', (r) => ({ values: inputs[r], dtype, root }));
        for (const copy of copies) expect(sameBits(copy, inputs[root])).toBe(true);
      }
    }
    const tokens = ranks.map(() => Int32Array.from({ length: 33 }, () => random.below(2 ** 31)));
    const gathered = await all('allGather', (r) => ({ values: tokens[r], dtype: 'float32' }));
    for (const got of gathered) expect([...got]).toEqual(tokens.flatMap((t) => [...t]));
    const drawn = await all('broadcast', (r) => ({ values: tokens[r], dtype: 'float32', root: 1 }));
    for (const got of drawn) expect(got).toEqual(tokens[1]);

    const times = await all('close', () => ({ groupFirst: true }));
    console.log('closing the group, then the backend, in ms:', times);
    for (const time of times.flat()) expect(time).toBeLessThan(2000);
  });

  test('a barrier waits for the last', async () => {
    await connect();
    let isThere = false;
    const first = ranks[0].obey('barrier').then(() => isThere);
    await sleep(500);
    isThere = true;
    await Promise.all(ranks.slice(1).map((rank) => rank.obey('barrier')));
    expect(await first).toBe(true);
  });

  test('graphs that hold collectives give what they give without, again and again', async () => {
    await connect();
    for (const rows of [1, 8, 200]) {
      const inputs = ranks.map(() => Array.from({ length: 6 }, () => random.normals(rows * 64, 'bfloat16')));
      const results = await all('replay', (r) => ({ inputs: inputs[r] }));
      for (const result of results) {
        for (const [i, [replayed, eager]] of result.entries()) {
          expect(replayed, `${rows} rows, input ${i}`).toEqual(eager);
          expect(replayed, 'the same on all ranks').toEqual(results[0][i][0]);
        }
      }
      // In float64, rounded where the kernels round: after the norm and after the sum.
      const last = inputs.map((of) => of[5]);
      const expected = expectedLayer(last, rows);
      const actual = results[0][5][0];
      const error = Math.max(...Array.from(actual, (x, i) => Math.abs(x - expected[i])));
      expect(error / Math.max(...expected.map(Math.abs))).toBeLessThan(2e-2);
      console.log(`${rows} rows: ms a launch`, await all('graphTime', () => ({ launches: 200 })));
      await all('freeGraph');
    }
    // The other order: the backend, and with it the stream, before the group.
    const times = await all('close', () => ({ groupFirst: false }));
    for (const time of times.flat()) expect(time).toBeLessThan(2000);
  });

  function expectedLayer(inputs: readonly Float32Array[], rows: number): number[] {
    const sums = new Float64Array(rows * 64);
    for (const x of inputs) {
      for (let row = 0; row < rows; row++) {
        const line = x.subarray(row * 64, (row + 1) * 64);
        const scale = 1 / Math.sqrt(line.reduce((sum, v) => sum + v * v, 0) / 64 + 1e-6);
        line.forEach((v, i) => (sums[row * 64 + i] += roundTo('bfloat16', v * scale)));
      }
    }
    const out: number[] = [];
    for (let row = 0; row < rows; row++) {
      // All ranks have the same sums, so that the gathered parts are equal.
      const half = Array.from({ length: 32 }, (_, i) => {
        const [gate, up] = [sums[row * 64 + i], sums[row * 64 + 32 + i]].map((v) => roundTo('bfloat16', v));
        return (gate / (1 + Math.exp(-gate))) * up;
      });
      for (let part = 0; part < worldSize; part++) out.push(...half);
    }
    return out;
  }

  test('what waits for a rank that never comes ends with the message', async () => {
    await connect();
    const inputs = ranks.map(() => [random.normals(64, 'bfloat16')]);
    await all('replay', (r) => ({ inputs: inputs[r] })); // a graph is alive while the group ends
    const started = performance.now();
    const stuck = ranks[0].obey('allReduce', { values: new Float32Array(1000), dtype: 'bfloat16' });
    const outcome = stuck.then(() => 'a result', String);
    await Promise.race([outcome, sleep(500)]);
    await ranks[1].kill(); // whether the other is slow or dead makes no difference
    await ranks[0].obey('abort', { message: 'Rank 1 was lost.' });
    expect(await outcome).toBe('Error: DistributedError: Rank 1 was lost.');
    expect(performance.now() - started).toBeLessThan(10_000);
    await ranks[0].obey('abort', { message: 'Another reason.' });
    const later = [
      ranks[0].obey('allReduce', { values: new Float32Array(1), dtype: 'float32' }),
      ranks[0].obey('barrier'),
      ranks[0].obey('launch'),
    ];
    for (const call of later) await expect(call).rejects.toThrow('DistributedError: Rank 1 was lost.');
    await ranks[0].obey('freeGraph');
    for (const time of await ranks[0].obey('close', { groupFirst: true })) expect(time).toBeLessThan(2500);
  });

  test('closing is quick although a collective is stuck, a graph is alive and nobody aborted', async () => {
    await connect();
    const inputs = ranks.map(() => [random.normals(64, 'bfloat16')]);
    await all('replay', (r) => ({ inputs: inputs[r] }));
    const stuck = ranks[0].obey('allReduce', { values: new Float32Array(1000), dtype: 'float32' });
    const outcome = stuck.then(() => 'a result', String);
    await sleep(200);
    const [group, backend] = await ranks[0].obey('close', { groupFirst: true });
    expect(group).toBeLessThan(8000);
    expect(backend).toBeLessThan(2000);
    expect(await outcome).toMatch(/DistributedError: .* closed while a collective waited for other ranks/);
  });

  test('looking for a rank that never comes can be given up, and the process ends', async () => {
    const rank = new Rank();
    ranks = [rank];
    const uniqueId = await rank.obey('uniqueId');
    const started = performance.now();
    const looking = rank.obey('connect', { uniqueId, rank: 0, worldSize: 2, giveUpAfter: 500 });
    await expect(looking).rejects.toThrow(/DistributedError: Rank 0 of 2 .* gave up looking for the others: .*timeout/);
    expect(performance.now() - started).toBeLessThan(10_000);
    await rank.end();
  });
});

const missingForOne = missingFor(1);
describe.skipIf(missingForOne)(`a rank alone, through NCCL ${missingForOne}`, () => {
  let backend: CudaBackend;
  let group: NcclGroup;
  beforeAll(async () => {
    backend = createCudaBackend();
    group = await NcclGroup.connect(backend, NcclGroup.uniqueId(), 0, 1);
    console.log(`NCCL ${loadCudaAddon().ncclVersion()}`);
  });
  afterAll(() => {
    group.close();
    group.close();
    backend.close();
  });

  test('a sum of one, a part of one, a copy of itself', async () => {
    const random = new RandomInputs('nccl alone');
    const values = random.normals(1000, 'bfloat16');
    const x = put(backend, values, [10, 100], 'bfloat16');
    const out = put(backend, new Float32Array(1000).fill(NaN), [1, 10, 100], 'bfloat16');
    group.allReduce(x);
    group.allGather(out, x);
    group.broadcast(x, 0);
    group.barrier();
    expect(await backend.read(x)).toEqual(values);
    expect(await backend.read(out)).toEqual(values);
  });

  test('in a graph', async () => {
    const x = put(backend, new Float32Array(64), [2, 32], 'bfloat16');
    const out = put(backend, new Float32Array(64).fill(NaN), [1, 2, 32], 'bfloat16');
    const half = put(backend, new Float32Array(32).fill(NaN), [2, 16], 'bfloat16');
    const flat = new Tensor(out.storage, [2, 32], 'bfloat16');
    const graph = backend.captureGraph(() => {
      group.allReduce(x);
      group.allGather(out, x);
      backend.siluAndMul(half, flat);
    });
    for (const value of [1, 2, 3]) {
      backend.write(x, new Float32Array(64).fill(value));
      graph.launch();
      const silu = value / (1 + Math.exp(-value));
      for (const y of await backend.read(half)) expect(Math.abs(y - silu * value)).toBeLessThan(0.05);
    }
    graph.free();
  });

  test('tensors that do not fit are refused, and the group lives on', async () => {
    const make = (shape: number[]) => backend.allocate(shape, 'float32');
    expect(() => group.allGather(make([2, 4]), make([4]))).toThrow(/allGather: Expected size 4.*received 8/);
    expect(() => group.allReduce(make([4, 4]).columns(0, 2))).toThrow(InvalidTensorError);
    expect(() => group.broadcast(make([4]), 1)).toThrow(/a rank below 1 for root but received 1/);
    group.barrier();
  });
});

test.skipIf(!existsSync(addonFile))('without NCCL the remedies are named', () => {
  const program = `try { require(process.argv[1]).ncclUniqueId(); } catch (e) { console.log(e.code, e.message); }`;
  const load = (library: string) => {
    const env = { ...process.env, NANOVLLM_NCCL: library };
    return spawnSync(process.execPath, ['-e', program, addonFile], { env, encoding: 'utf8' }).stdout;
  };
  expect(load('/nowhere/libnccl.so.2')).toMatch(
    /^BACKEND NCCL.*\n.*\/nowhere\/libnccl.so.2.*\n.*libnccl2.*\n.*NANOVLLM_NCCL=/,
  );
  expect(load('libm.so.6')).toMatch(/^BACKEND This NCCL has no ncclGetVersion: version 2.13 or newer/);
});

describe('a group without a GPU', () => {
  const native = {
    ready: vi.fn(() => true),
    allReduce: vi.fn(),
    allGather: vi.fn(),
    broadcast: vi.fn(),
    barrier: vi.fn(),
    abort: vi.fn(),
    close: vi.fn(() => true),
  };
  const backend = {
    description: 'a GPU',
    invalidate: vi.fn<(reason: Error) => void>(),
    communicator: vi.fn(() => native),
  };
  const connect = (signal?: AbortSignal) =>
    NcclGroup.connect(backend as unknown as CudaBackend, new Uint8Array(128), 1, 2, signal);
  const x = new Tensor({ alive: true, address: 64 }, [4], 'float32');
  const nativeError = (code: string) => Object.assign(new Error('a native error'), { code });
  const thrown = (body: () => void): Error => {
    try {
      body();
    } catch (error) {
      return error as Error;
    }
    throw new Error('nothing was thrown');
  };

  afterEach(() => {
    vi.unstubAllEnvs();
    vi.resetAllMocks();
    native.ready.mockReturnValue(true);
    native.close.mockReturnValue(true);
    backend.communicator.mockReturnValue(native);
  });

  test('connecting waits until the others are found', async () => {
    native.ready.mockReturnValueOnce(false).mockReturnValueOnce(false);
    const group = await connect();
    expect([group.rank, group.worldSize, native.ready.mock.calls.length]).toEqual([1, 2, 3]);
    group.allReduce(x);
    expect(native.allReduce).toHaveBeenCalledWith(x.desc);
  });

  test('connecting can be given up, and can fail', async () => {
    native.ready.mockReturnValue(false);
    const reason = new DistributedError('rank 0 is gone');
    const looking = connect(AbortSignal.abort(reason));
    await expect(looking).rejects.toThrow('Rank 1 of 2 (a GPU) gave up looking for the others: rank 0 is gone');
    await expect(looking).rejects.toThrow(DistributedError);
    expect(native.close).toHaveBeenCalledTimes(1);
    native.ready.mockImplementation(() => {
      throw nativeError('BACKEND');
    });
    const failed = connect();
    await expect(failed).rejects.toThrow('Rank 1 of 2 (a GPU) did not find the others. a native error');
    await expect(failed).rejects.toThrow(DistributedError);
    expect(native.close).toHaveBeenCalledTimes(2);
  });

  test('an aborted group has one message, and so have reads', async () => {
    const group = await connect();
    group.abort('the first');
    group.abort('the second');
    expect(native.abort).toHaveBeenCalledTimes(1);
    expect(backend.invalidate.mock.calls[0][0]).toMatchObject({ name: 'DistributedError', message: 'the first' });
    expect(backend.invalidate.mock.invocationCallOrder[0]).toBeLessThan(native.abort.mock.invocationCallOrder[0]);
    const calls = [
      () => group.allReduce(x),
      () => group.allGather(x, x),
      () => group.broadcast(x, 0),
      () => group.barrier(),
    ];
    for (const call of calls) expect(thrown(call)).toMatchObject({ name: 'DistributedError', message: 'the first' });
    for (const call of [native.allReduce, native.allGather, native.broadcast, native.barrier])
      expect(call).not.toHaveBeenCalled();
    group.close();
    expect(thrown(calls[0]).message).toBe('the first');
  });

  test("an error of NCCL's ends the group, a wrong tensor does not", async () => {
    const group = await connect();
    native.allReduce.mockImplementationOnce(() => {
      throw nativeError('TENSOR');
    });
    expect(() => group.allReduce(x)).toThrow(InvalidTensorError);
    group.allReduce(x);
    expect(native.abort).not.toHaveBeenCalled();
    native.barrier.mockImplementationOnce(() => {
      throw nativeError('BACKEND');
    });
    expect(() => group.barrier()).toThrow(DistributedError);
    expect(native.abort).toHaveBeenCalledTimes(1);
    expect(thrown(() => group.allReduce(x)).message).toBe('Rank 1 of 2: a native error');
  });

  test('a group that was closed, in time or not', async () => {
    const group = await connect();
    group.close();
    expect(() => group.allReduce(x)).toThrow('used after it was closed');
    expect(backend.invalidate).not.toHaveBeenCalled();
    native.close.mockReturnValue(false);
    (await connect()).close();
    expect(backend.invalidate.mock.calls[0][0].message).toMatch('closed while a collective waited');
  });

  test('NANOVLLM_SKIP_COLLECTIVES leaves out all but the barrier', async () => {
    vi.stubEnv('NANOVLLM_SKIP_COLLECTIVES', '1');
    const group = await connect();
    group.allReduce(x);
    group.allGather(x, x);
    group.broadcast(x, 0);
    group.barrier();
    for (const call of [native.allReduce, native.allGather, native.broadcast]) expect(call).not.toHaveBeenCalled();
    expect(native.barrier).toHaveBeenCalledTimes(1);
    group.abort('the end');
    expect(() => group.allReduce(x)).toThrow('the end');
  });

  test('from the moment a backend is invalid, reads fail, those under way too, and so do graphs', async () => {
    let arrive = () => {};
    const launchGraph = vi.fn();
    const CudaDevice = class {
      describe = () => 'a GPU';
      read = () => new Promise<void>((done) => (arrive = done));
      beginCapture = () => {};
      endCapture = () => 1;
      launchGraph = launchGraph;
    };
    const fake = new CudaBackend({ CudaDevice } as unknown as CudaAddon);
    const graph = fake.captureGraph(() => {});
    const whole = fake.read(x);
    arrive();
    expect(await whole).toHaveLength(4);
    const late = fake.read(x);
    fake.invalidate(new DistributedError('the first'));
    fake.invalidate(new DistributedError('the second'));
    arrive();
    await expect(late).rejects.toThrow('the first');
    await expect(fake.read(x)).rejects.toThrow(DistributedError);
    expect(() => graph.launch()).toThrow('the first');
    expect(launchGraph).not.toHaveBeenCalled();
  });
});

test('GPUs can be counted where there are none, and where nothing was built', () => {
  expect(cudaDeviceCount()).toBeGreaterThanOrEqual(HAS_CUDA ? 1 : 0);
  if (!existsSync(addonFile)) {
    expect(cudaDeviceCount()).toBe(0);
    expect(() => NcclGroup.uniqueId()).toThrow(BackendError);
  }
});
