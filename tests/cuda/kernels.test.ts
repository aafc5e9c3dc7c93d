// The cuda backend's kernels against the plain TypeScript ones, in bfloat16 and float16, on fresh random inputs.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type CudaBackend, createCudaBackend, cudaDeviceCount } from '#nano/backends/cuda';
import { ReferenceBackend } from '#nano/backends/reference/index';
import { BackendError, InvalidTensorError } from '#nano/errors';
import { rotaryTable } from '#nano/layers/rotary-embedding';
import type { FloatDType } from '#nano/tensor/dtype';
import type { Backend, LinearArgs, QkNormRopeStoreArgs } from '#nano/tensor/kernels';
import { Ops } from '#nano/tensor/ops';
import { Tensor } from '#nano/tensor/tensor';
import { HAS_CUDA } from '../helpers/backends';
import { worstRowError } from '../helpers/models';
import { encode, poisoned, put, RandomInputs } from '../helpers/random';

/** Largest relative norm of a row, against the same numbers computed from the same rounded inputs in higher precision. */
const TOLERANCE = { bfloat16: 1e-2, float16: 2e-3 } as const;
const PLAIN: LinearArgs = { bias: null, accumulate: false, siluAndMul: false };
const DTYPES = ['bfloat16', 'float16'] as const;

describe.skipIf(!HAS_CUDA)('devices', () => {
  test('two backends in one thread, on two GPUs where there are two', async () => {
    const random = new RandomInputs('devices');
    const backends = [0, cudaDeviceCount() - 1].map((device) => createCudaBackend({ device }));
    const inputs = backends.map((on) => put(on, new Float32Array(9 * 4000), [9, 4000], 'bfloat16'));
    const outputs = backends.map((on) => poisoned(on, [9, 2000], 'bfloat16'));
    const graphs = backends.map((on, i) => on.captureGraph(() => on.siluAndMul(outputs[i], inputs[i])));
    const values = random.normals(9 * 4000, 'bfloat16');
    const before = backends.map((on) => on.memoryInfo().free);
    for (const on of backends) on.allocate([2 ** 28], 'bfloat16'); // 512 MiB, each on its own GPU
    const taken = backends.map((on, i) => before[i] - on.memoryInfo().free);
    for (const bytes of taken) expect(bytes).toBeGreaterThanOrEqual(2 ** 29);
    if (cudaDeviceCount() > 1) for (const bytes of taken) expect(bytes).toBeLessThan(2 ** 30);
    for (const [i, on] of backends.entries()) on.write(inputs[i], values);
    for (const graph of graphs) graph.launch();
    const [first, second] = await Promise.all(backends.map((on, i) => on.read(outputs[i])));
    expect(second).toEqual(first);
    expect(first.some(Number.isNaN)).toBe(false);
    for (const [i, on] of backends.entries()) {
      graphs[i].free();
      on.close();
    }
  });

  test('a GPU that is not there', () => {
    const device = cudaDeviceCount();
    expect(() => createCudaBackend({ device })).toThrow(`There is no GPU ${device}: this process can use ${device}`);
    expect(() => createCudaBackend({ device })).toThrow(BackendError);
  });
});

describe.skipIf(!HAS_CUDA)('cuda kernels', () => {
  const random = new RandomInputs('cuda kernels');
  const worst: Record<string, number> = {};
  let cuda: CudaBackend;
  let invariant: CudaBackend;
  let reference: ReferenceBackend;
  beforeAll(() => {
    cuda = createCudaBackend();
    invariant = createCudaBackend({ batchInvariant: true });
    reference = new ReferenceBackend();
  });
  afterAll(() => {
    console.log('largest relative row error by kernel:', worst);
    for (const backend of [cuda, invariant, reference]) backend.close();
  });

  /** The same computation on both; on the reference in float32 throughout. */
  async function compare(
    what: string,
    dtype: keyof typeof TOLERANCE,
    rowLength: number,
    compute: (backend: Backend, dtype: FloatDType) => Tensor,
    backend: CudaBackend = cuda,
  ): Promise<void> {
    const actual = await backend.read(compute(backend, dtype));
    const expected = await reference.read(compute(reference, 'float32'));
    const error = worstRowError(actual, expected, rowLength);
    worst[`${what} ${dtype}`] = Math.max(worst[`${what} ${dtype}`] ?? 0, error);
    expect(error, what).toBeLessThan(TOLERANCE[dtype]);
  }

  describe.each(DTYPES)('%s', (dtype) => {
    test.each([
      [1, 40, 17],
      [1, 1024, 4096],
      [2, 3072, 1024],
      [5, 1024, 6144],
      [8, 2048, 1024],
      [9, 256, 33],
      [16, 1024, 4096],
      [64, 72, 130],
      [130, 1032, 257],
      [300, 512, 1000],
    ])('linear: [%i rows, %i inputs] to %i outputs', async (rows, k, n) => {
      const x = random.normals(rows * k, dtype);
      const w = random.normals(n * k, dtype, 1 / Math.sqrt(k));
      const b = random.normals(n, 'float32');
      for (const outDType of [dtype, 'float32'] as const) {
        for (const [name, backend] of Object.entries({ linear: cuda, 'invariant linear': invariant })) {
          const compute = (on: Backend, as: FloatDType) => {
            const out = poisoned(on, [rows, n], on === reference ? 'float32' : outDType);
            const bias = outDType === 'float32' ? put(on, b, [n]) : null;
            on.linear(out, put(on, x, [rows, k], as), put(on, w, [n, k], as), { ...PLAIN, bias });
            return out;
          };
          await compare(name, dtype, n, compute, backend);
        }
      }
    });

    test('linear in batch-invariant mode: a row has the same bits alone and among any others', async () => {
      for (const [n, k] of [
        [1000, 1024],
        [64, 72],
      ]) {
        const rows = 150;
        const x = put(invariant, random.normals(rows * k, dtype), [rows, k], dtype);
        const w = put(invariant, random.normals(n * k, dtype), [n, k], dtype);
        const whole = poisoned(invariant, [rows, n], 'float32');
        invariant.linear(whole, x, w, PLAIN);
        const expected = await invariant.read(whole);
        for (const count of [1, 2, 7, 8, 9, 63, 64, 65, 127, 129]) {
          const first = random.below(rows - count + 1);
          const part = poisoned(invariant, [count, n], 'float32');
          invariant.linear(part, new Tensor(x.storage, [count, k], dtype, undefined, first * k), w, PLAIN);
          expect(await invariant.read(part)).toEqual(expected.slice(first * n, (first + count) * n));
        }
      }
    });

    test.each([
      [1, 1024],
      [3, 2048],
      [7, 40],
      [300, 128],
    ])('rmsNorm: [%i, %i]', async (rows, n) => {
      const x = random.normals(rows * n, dtype);
      const gain = random.normals(n, 'float32');
      await compare('rmsNorm', dtype, n, (on, as) => {
        const out = poisoned(on, [rows, n], as);
        on.rmsNorm(out, put(on, x, [rows, n], as), put(on, gain, [n]), 1e-6);
        return out;
      });
    });

    // The reference applies the gate by a kernel of its own; so does the GPU above a few rows.
    test.each([
      [1, 1024, 2048],
      [3, 72, 130],
      [8, 3072, 1024],
      [40, 256, 64],
    ])('linear with a gate, with an addition: [%i rows, %i inputs] to %i outputs', async (rows, k, n) => {
      const w = random.normals(n * k, dtype, 1 / Math.sqrt(k));
      const before = random.normals(rows * n, dtype);
      const x = random.normals(rows * k, dtype);
      for (const kind of ['plain', 'added', 'gated'] as const) {
        const accumulate = kind === 'added';
        const width = kind === 'gated' ? n / 2 : n;
        await compare(`linear, ${kind}`, dtype, width, (on, as) => {
          const ops = new Ops(on, as);
          const [input, weight] = [put(on, x, [rows, k], as), put(on, w, [n, k], as)];
          const out = accumulate ? put(on, before, [rows, n], as) : poisoned(on, [rows, width], as);
          const options = { siluAndMul: kind === 'gated', ...(accumulate ? { addTo: out } : { out }) };
          const run = () => ops.linear(input, weight, options);
          ops.reserveFor(run);
          run();
          return out;
        });
      }
    });

    test('rmsNorm of heads that are columns of a wider matrix, in place', async () => {
      const [rows, heads, dim, width] = [5, 3, 64, 400];
      const values = random.normals(rows * width, dtype);
      const gain = random.normals(dim, 'float32');
      await compare('rmsNorm', dtype, width, (on, as) => {
        const whole = put(on, values, [rows, width], as);
        const view = whole.columns(8, heads * dim).splitHeads(heads);
        on.rmsNorm(view, view, put(on, gain, [dim]), 1e-6);
        return whole;
      });
    });

    test.each([
      [1, 3072],
      [9, 24],
      [200, 1000],
    ])('siluAndMul: [%i, 2 x %i]', async (rows, n) => {
      const x = random.normals(rows * 2 * n, dtype, 3);
      await compare('siluAndMul', dtype, n, (on, as) => {
        const out = poisoned(on, [rows, n], as);
        on.siluAndMul(out, put(on, x, [rows, 2 * n], as));
        return out;
      });
    });

    test('embedding and gatherRows', async () => {
      for (const n of [1024, 40, 6]) {
        const table = random.normals(97 * n, dtype);
        const ids = Int32Array.from({ length: 33 }, () => random.below(97));
        for (const op of ['embedding', 'gatherRows'] as const) {
          await compare(op, dtype, n, (on, as) => {
            const out = poisoned(on, [33, n], as);
            const [rows, from] = [put(on, ids, [33]), put(on, table, [97, n], as)];
            if (op === 'embedding') on.embedding(out, rows, from, null);
            else on.gatherRows(out, from, rows);
            return out;
          });
        }
      }
    });

    test('embedding of a shard: the rows it has, and zeros for all others', async () => {
      for (const n of [1024, 40, 6]) {
        const [rows, firstRow] = [50, random.below(1000)];
        const table = random.normals(rows * n, dtype);
        const edges = [firstRow - 1, firstRow, firstRow + rows - 1, firstRow + rows, -1, 2 ** 31 - 1, -(2 ** 31)];
        const ids = Int32Array.of(...edges, ...Array.from({ length: 40 }, () => random.below(firstRow + 2 * rows)));
        const look = (on: Backend, as: FloatDType) => {
          const out = poisoned(on, [ids.length, n], as);
          on.embedding(out, put(on, ids, [ids.length]), put(on, table, [rows, n], as), firstRow);
          return on.read(out);
        };
        expect(await look(cuda, dtype)).toEqual(await look(reference, 'float32'));
      }
    });

    /** Tensors of one decode or prefill step, q, k and v being columns of one projection. */
    function projection(on: Backend, as: FloatDType, inputs: ReturnType<typeof drawProjection>) {
      const { rows, heads, kvHeads, dim } = inputs;
      const qkv = put(on, inputs.qkv, [rows, (heads + 2 * kvHeads) * dim], as);
      const part = (first: number, count: number) => qkv.columns(first * dim, count * dim).splitHeads(count);
      const cache = () => put(on, new Float32Array(6 * 4 * kvHeads * dim).fill(7), [6, 4, kvHeads, dim], as);
      return {
        qkv,
        q: part(0, heads),
        k: part(heads, kvHeads),
        v: part(heads + kvHeads, kvHeads),
        args: {
          qWeight: put(on, inputs.qWeight, [dim]),
          kWeight: put(on, inputs.kWeight, [dim]),
          eps: 1e-6,
          positions: put(on, inputs.positions, [rows]),
          cosSin: put(on, rotaryTable(64, dim, 1e6), [64, dim]),
          kCache: cache(),
          vCache: cache(),
          slotMapping: put(on, inputs.slots, [rows]),
        } satisfies QkNormRopeStoreArgs,
      };
    }

    function drawProjection(rows: number, heads: number, kvHeads: number, dim: number) {
      const free = Array.from({ length: 24 }, (_, i) => i).sort(() => random.uniform() - 0.5);
      return {
        ...{ rows, heads, kvHeads, dim },
        qkv: random.normals(rows * (heads + 2 * kvHeads) * dim, dtype),
        qWeight: random.normals(dim, 'float32'),
        kWeight: random.normals(dim, 'float32'),
        positions: Int32Array.from({ length: rows }, () => random.below(64)),
        slots: Int32Array.from({ length: rows }, (_, i) => (i % 5 === 3 ? -1 : free[i])),
      };
    }

    test.each([
      [1, 16, 8, 128],
      [17, 4, 2, 64],
      [6, 8, 1, 80],
      [5, 2, 2, 96],
      [3, 4, 4, 256],
    ])('rotary, store and their fusion: %i tokens, %i/%i heads of %i', async (rows, heads, kvHeads, dim) => {
      const inputs = drawProjection(rows, heads, kvHeads, dim);
      for (const which of ['q', 'kCache', 'vCache'] as const) {
        const pick = ({ qkv, args }: ReturnType<typeof projection>) => (which === 'q' ? qkv : args[which]);
        const width = which === 'q' ? (heads + 2 * kvHeads) * dim : dim;
        await compare('rotary, store', dtype, width, (on, as) => {
          const step = projection(on, as, inputs);
          const { q, k, v, args } = step;
          on.rotaryEmbedding(q, k, args.positions, args.cosSin);
          on.storeKvCache(k, v, args.kCache, args.vCache, args.slotMapping);
          return pick(step);
        });
        // The fused kernel leaves k's columns undefined: compare q's alone.
        const columns = which === 'q' ? heads * dim : dim;
        const actual = projection(cuda, dtype, inputs);
        cuda.qkNormRopeStore(actual.q, actual.k, actual.v, actual.args);
        const expected = projection(reference, 'float32', inputs);
        const { q, k, v, args } = expected;
        reference.rmsNorm(q, q, args.qWeight, args.eps);
        reference.rmsNorm(k, k, args.kWeight, args.eps);
        reference.rotaryEmbedding(q, k, args.positions, args.cosSin);
        reference.storeKvCache(k, v, args.kCache, args.vCache, args.slotMapping);
        const rowsOf = (values: ArrayLike<number>) =>
          which !== 'q'
            ? values
            : Float32Array.from(
                { length: rows * columns },
                (_, i) => values[Math.floor(i / columns) * width + (i % columns)],
              );
        const error = worstRowError(
          rowsOf(await cuda.read(pick(actual))),
          rowsOf(await reference.read(pick(expected))),
          which === 'q' ? dim : columns,
        );
        worst[`qkNormRopeStore ${dtype}`] = Math.max(worst[`qkNormRopeStore ${dtype}`] ?? 0, error);
        expect(error, which).toBeLessThan(TOLERANCE[dtype]);
      }
    });

    test('weights of any dtype are converted on the way in', async () => {
      for (const source of ['float32', 'bfloat16', 'float16'] as const) {
        const values = random.normals(40 * 24, source);
        const host = put(reference, values, [40, 24]);
        const target = cuda.allocateWeight([40, 24], dtype);
        cuda.loadRows(target, 0, encode(values, source), source);
        const error = worstRowError(await cuda.read(target), await reference.read(host), 24);
        expect(error).toBeLessThan(TOLERANCE[dtype]);
      }
    });
  });

  test.each([
    [1, 2, 75968, 151936],
    [3, 2, 5, 9],
    [70, 4, 36, 130],
    [2, 8, 300, 1805], // nothing of the last part is left
    [0, 2, 4, 8],
  ])('%i rows of %i parts, %i columns each, side by side: %i columns', async (rows, n, width, columns) => {
    const parts = random.normals(n * rows * width, 'float32');
    const concat = async (on: Backend) => {
      const from = put(on, parts, [n, rows, width]);
      const wide = poisoned(on, [rows, columns + 7], 'float32');
      const dense = poisoned(on, [rows, columns], 'float32');
      for (const out of [wide.columns(3, columns), dense]) on.concatColumns(out, from);
      return [await on.read(dense), await on.read(wide)];
    };
    expect(await concat(cuda)).toEqual(await concat(reference));
  });

  test('logits that were gathered in parts, in a graph behind another kernel', async () => {
    const [rows, n, width] = [8, 2, 512];
    const make = (shape: number[], dtype: FloatDType) => cuda.allocate(shape, dtype);
    const [x, w, parts] = [
      make([n * rows, 64], 'bfloat16'),
      make([width, 64], 'bfloat16'),
      make([n, rows, width], 'float32'),
    ];
    const [logits, token] = [make([rows, n * width], 'float32'), cuda.allocate([rows], 'int32')];
    const zeros = (dtype: 'int32' | 'float32', length = rows) => cuda.allocate([length], dtype);
    const greedy = {
      ...{ temperature: zeros('float32'), topK: zeros('int32'), topP: zeros('float32'), minP: zeros('float32') },
      ...{ seed: zeros('int32', 2 * rows), position: zeros('int32') },
    };
    cuda.write(greedy.topP, new Float32Array(rows).fill(1));
    const flat = new Tensor(parts.storage, [n * rows, width], 'float32');
    const graph = cuda.captureGraph(() => {
      cuda.linear(flat, x, w, PLAIN);
      cuda.concatColumns(logits, parts);
      cuda.sample(token, logits, greedy);
    });
    for (let i = 0; i < 5; i++) {
      cuda.write(x, random.normals(n * rows * 64, 'bfloat16'));
      cuda.write(w, random.normals(width * 64, 'bfloat16'));
      graph.launch();
      const [drawn, gathered, whole] = [await cuda.read(token), await cuda.read(parts), await cuda.read(logits)];
      for (let row = 0; row < rows; row++) {
        const line = whole.slice(row * n * width, (row + 1) * n * width) as Float32Array;
        for (let part = 0; part < n; part++) {
          const begin = (part * rows + row) * width;
          expect(line.slice(part * width, (part + 1) * width)).toEqual(gathered.slice(begin, begin + width));
        }
        expect(drawn[row]).toBe(line.indexOf(line.reduce((a, b) => Math.max(a, b))));
      }
    }
    graph.free();
  });

  test('token slots: gathered, scattered, -1 skipped', async () => {
    const table = put(cuda, Int32Array.of(10, 11, 12, 13), [4]);
    cuda.scatterTokens(table, put(cuda, Int32Array.of(7, 8, 9), [3]), put(cuda, Int32Array.of(2, -1, 0), [3]));
    const out = put(cuda, Int32Array.of(-5, -5, -5), [3]);
    cuda.gatherTokens(out, table, put(cuda, Int32Array.of(0, -1, 3), [3]));
    expect(await cuda.read(table)).toEqual(Int32Array.of(9, 11, 7, 13));
    expect(await cuda.read(out)).toEqual(Int32Array.of(9, 0, 13));
  });

  test('tensors that do not fit are refused by name', () => {
    const make = (shape: number[], dtype: FloatDType) => cuda.allocate(shape, dtype);
    const [x, w] = [make([2, 12], 'bfloat16'), make([4, 12], 'bfloat16')];
    expect(() => cuda.linear(make([2, 4], 'bfloat16'), x, w, PLAIN)).toThrow(/multiple of 8.*12/);
    expect(() => cuda.siluAndMul(make([2, 8], 'float32'), make([2, 16], 'float32'))).toThrow(InvalidTensorError);
    expect(() => cuda.siluAndMul(make([2, 8], 'float16'), make([2, 16], 'bfloat16'))).toThrow(/siluAndMul.*bfloat16/);
    const [parts, logits] = [make([2, 4, 16], 'float32'), make([4, 33], 'float32')];
    expect(() => cuda.concatColumns(logits, parts)).toThrow(/concatColumns.*at most 32.*33/);
    expect(() => cuda.concatColumns(make([4, 32], 'bfloat16'), parts)).toThrow(/concatColumns.*bfloat16 for parts/);
  });
});
