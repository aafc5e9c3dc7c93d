// The cpu backend's kernels against the plain TypeScript ones, for every instruction set this machine
// has; and its promise that a row's result has the same bits whatever is computed beside it.
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type CpuAddon, findAddon, loadAddon } from '#nano/backends/addon';
import { CpuBackend } from '#nano/backends/cpu';
import { ReferenceBackend } from '#nano/backends/reference/index';
import { BackendError, ConfigError, InvalidTensorError } from '#nano/errors';
import { type FloatDType, roundTo } from '#nano/tensor/dtype';
import type { Backend, LinearArgs, SampleArgs } from '#nano/tensor/kernels';
import { Tensor } from '#nano/tensor/tensor';
import { put } from '../helpers/random';

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
console.log(`native kernels: repeat these inputs with SEED=${seed}`);

let state = seed | 1;
/** Uniform in (0, 1). */
function uniform(): number {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return ((state >>> 0) + 0.5) / 2 ** 32;
}
const below = (n: number): number => Math.floor(uniform() * n);
const normal = (): number => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
const normals = (n: number, dtype: FloatDType = 'float32'): Float32Array =>
  Float32Array.from({ length: n }, () => roundTo(dtype, normal()));

const PLAIN: LinearArgs = { bias: null, accumulate: false, siluAndMul: false };
const DTYPES: FloatDType[] = ['float32', 'bfloat16', 'float16'];
const addon = loadAddon<CpuAddon>(findAddon('nanovllm'));
const isas = addon.availableIsas();

const size = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);
const bytesOf = (values: Float32Array): Uint8Array =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

const ints = (backend: Backend, ...values: number[]): Tensor => put(backend, Int32Array.from(values), [values.length]);
/** A float32 tensor of NaN: what a kernel leaves unwritten stays visible. */
const poisoned = (backend: Backend, shape: number[]): Tensor =>
  put(backend, new Float32Array(size(shape)).fill(NaN), shape);

function weightOf(backend: Backend, values: Float32Array, shape: [number, number], dtype: FloatDType): Tensor {
  const weight = backend.allocateWeight(shape, dtype);
  backend.loadRows(weight, 0, bytesOf(values), 'float32');
  return weight;
}

/** The largest difference relative to the largest expected value. */
function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let [worst, largest] = [0, 1e-30];
  for (let i = 0; i < expected.length; i++) {
    worst = Math.max(worst, Number.isNaN(actual[i]) ? Infinity : Math.abs(actual[i] - expected[i]));
    largest = Math.max(largest, Math.abs(expected[i]));
  }
  return worst / largest;
}

/** The same computation on the native and the reference backend. */
async function compare(native: Backend, tolerance: number, compute: (backend: Backend) => Tensor): Promise<void> {
  const reference = new ReferenceBackend();
  const [actual, expected] = [await native.read(compute(native)), await reference.read(compute(reference))];
  expect(actual.length).toBe(expected.length);
  expect(relativeError(actual, expected)).toBeLessThan(tolerance);
  reference.close();
}

/** Every bit equal: stricter than numbers, and quicker than comparing element by element. */
function expectSameBits(actual: Float32Array | Int32Array, expected: Float32Array | Int32Array, what = ''): void {
  const bytes = (a: Float32Array | Int32Array) => Buffer.from(a.buffer, a.byteOffset, a.byteLength);
  if (bytes(actual).equals(bytes(expected))) return;
  const at = actual.findIndex((x, i) => !Object.is(x, expected[i]));
  expect.fail(
    `${what}: element ${at} of ${expected.length} is ${actual[at]}, expected ${expected[at]} to the last bit`,
  );
}

describe.each(isas)('%s', (isa) => {
  let native: CpuBackend;
  beforeAll(() => {
    native = new CpuBackend(addon, { isa, threads: 3 });
  });
  afterAll(() => native.close());

  describe.each(DTYPES)('linear with %s weights', (dtype) => {
    /** Where the matrix units or dot-product instructions multiply, activations are rounded to bfloat16 first. */
    const rounded: FloatDType =
      dtype === 'bfloat16' && (isa === 'amx' || isa === 'avx512bf16') ? 'bfloat16' : 'float32';

    test.each([
      [1, 17, 40],
      [2, 16, 32],
      [5, 1, 1],
      [7, 33, 31],
      [16, 64, 96],
      [17, 130, 65],
      [33, 48, 257],
      [70, 200, 128],
    ])('[%i rows] x [%i outputs, %i inputs]', async (rows, n, k) => {
      const x = normals(rows * k, rounded);
      const w = normals(n * k);
      const b = normals(n);
      for (const withBias of [false, true]) {
        await compare(native, 2e-6 * Math.sqrt(k) + 1e-6, (backend) => {
          const out = poisoned(backend, [rows, n]);
          const bias = withBias ? put(backend, b, [n]) : null;
          backend.linear(out, put(backend, x, [rows, k]), weightOf(backend, w, [n, k], dtype), { ...PLAIN, bias });
          return out;
        });
      }
    });

    test.each([1, 7, 40])('%i rows added to what is there', async (rows) => {
      const [n, k] = [50, 72];
      const [x, w, b, before] = [normals(rows * k, rounded), normals(n * k), normals(n), normals(rows * n)];
      for (const withBias of [false, true]) {
        await compare(native, 2e-5, (backend) => {
          const out = put(backend, before, [rows, n]);
          const bias = withBias ? put(backend, b, [n]) : null;
          const weight = weightOf(backend, w, [n, k], dtype);
          backend.linear(out, put(backend, x, [rows, k]), weight, { ...PLAIN, bias, accumulate: true });
          return out;
        });
      }
    });

    test('a row has the same bits alone and among any others', async () => {
      for (const [n, k] of [
        [17, 40],
        [130, 96],
        [64, 1025],
        [300, 64],
      ]) {
        const rows = 67;
        const x = put(native, normals(rows * k), [rows, k]);
        const w = weightOf(native, normals(n * k), [n, k], dtype);
        const whole = poisoned(native, [rows, n]);
        native.linear(whole, x, w, PLAIN);
        const expected = await native.read(whole);
        for (const count of [1, 2, 3, 5, 6, 7, 15, 16, 17, 31, 32, 33, 48, 66]) {
          const first = below(rows - count + 1);
          const part = poisoned(native, [count, n]);
          native.linear(part, new Tensor(x.storage, [count, k], 'float32', undefined, first * k), w, PLAIN);
          const rowsOfWhole = expected.subarray(first * n, (first + count) * n);
          expectSameBits(await native.read(part), rowsOfWhole, `${count} rows of [${n}, ${k}]`);
        }
      }
    });

    test('strided inputs and outputs', async () => {
      const x = normals(5 * 100, rounded);
      const w = normals(24 * 36);
      const wide = poisoned(native, [5, 60]);
      await compare(native, 1e-5, (backend) => {
        const out = backend === native ? wide.columns(8, 24) : poisoned(backend, [5, 24]);
        backend.linear(out, put(backend, x, [5, 100]).columns(50, 36), weightOf(backend, w, [24, 36], dtype), PLAIN);
        if (backend !== native) return out;
        const dense = poisoned(native, [5, 24]);
        native.gatherRows(dense, out, ints(native, 0, 1, 2, 3, 4));
        return dense;
      });
      const kept = await native.read(wide); // columns beside the output are untouched
      expect(Array.from(kept, Number.isNaN).filter(Boolean)).toHaveLength(5 * 36);
    });

    test('embedding reads rows of the same packed weight', async () => {
      const [v, h] = [37, 45];
      const w = normals(v * h, dtype);
      const ids = [0, 36, 15, 16, 7, 7];
      const out = poisoned(native, [ids.length, h]);
      native.embedding(out, ints(native, ...ids), weightOf(native, w, [v, h], dtype), null);
      expect(await native.read(out)).toEqual(
        Float32Array.from(ids.flatMap((id) => [...w.subarray(id * h, id * h + h)])),
      );
      native.embedding(out, ints(native, ...ids), put(native, w, [v, h], dtype), null);
      expect((await native.read(out)).subarray(h, h + 3)).toEqual(w.subarray(36 * h, 36 * h + 3));
    });

    test('embedding of a shard: the rows it has, and zeros for all others', async () => {
      for (const [rows, h] of [
        [37, 45],
        [16, 8],
        [1, 100],
        [50, 32],
      ]) {
        const firstRow = below(2 * rows);
        const w = normals(rows * h, dtype);
        const edges = [firstRow - 1, firstRow, firstRow + rows - 1, firstRow + rows, -1, 2 ** 31 - 1, -(2 ** 31)];
        const ids = [...edges, ...Array.from({ length: 60 }, () => below(firstRow + 2 * rows))];
        for (const isPacked of [true, false]) {
          await compare(native, 1e-30, (backend) => {
            const weight = isPacked ? weightOf(backend, w, [rows, h], dtype) : put(backend, w, [rows, h], dtype);
            const out = poisoned(backend, [ids.length, h]);
            backend.embedding(out, ints(backend, ...ids), weight, firstRow);
            return out;
          });
        }
      }
      // The reference itself: two shards' rows add up to the whole table's.
      const reference = new ReferenceBackend();
      const w = normals(30 * 8, dtype);
      const ids = ints(reference, 0, 29, 12, 11, 13);
      const lookUp = async (first: number, count: number, firstRow: number | null) => {
        const out = poisoned(reference, [5, 8]);
        const part = w.slice(first * 8, (first + count) * 8);
        reference.embedding(out, ids, put(reference, part, [count, 8], dtype), firstRow);
        return reference.read(out);
      };
      const [low, high] = [await lookUp(0, 12, 0), await lookUp(12, 18, 12)];
      expect(low.map((x, i) => x + high[i])).toEqual(await lookUp(0, 30, null));
    });

    test('rows load in any pieces, from any dtype', async () => {
      const [n, k] = [50, 33];
      for (const source of DTYPES) {
        const values = normals(n * k, source);
        const encoded = native.allocate([n * k], source); // use the backend's own encoding of `source`
        native.write(encoded, values);
        const weight = native.allocateWeight([n, k], dtype);
        const checkpoint = encode(values, source);
        const width = checkpoint.length / n;
        for (const [from, to] of [
          [0, 1],
          [1, 20],
          [20, 33],
          [33, 50],
        ]) {
          native.loadRows(weight, from, checkpoint.subarray(from * width, to * width), source);
        }
        const out = poisoned(native, [n, k]);
        native.embedding(out, ints(native, ...Array(n).keys()), weight, null);
        expect(await native.read(out)).toEqual(values.map((x) => roundTo(dtype, x)));
      }
    });
  });

  describe('element by element', () => {
    test.each([1, 7, 16, 40, 128, 1000])('norms of %i columns', async (h) => {
      const [x, w] = [normals(9 * h), normals(h)];
      await compare(native, 1e-6, (backend) => {
        const out = poisoned(backend, [9, h]);
        backend.rmsNorm(out, put(backend, x, [9, h]), put(backend, w, [h]), 1e-6);
        return out;
      });
    });

    test('norm and rotation of heads cut from a fused projection, in place', async () => {
      const [t, hq, hkv] = [70, 4, 2];
      for (const d of [8, 34, 64, 128]) {
        const width = (hq + 2 * hkv) * d;
        const [fused, w, angles] = [normals(t * width), normals(d), normals(50 * d)];
        const positions = Array.from({ length: t }, () => below(50));
        await compare(native, 2e-6, (backend) => {
          const qkv = put(backend, fused, [t, width]);
          const [q, k] = [qkv.columns(0, hq * d).splitHeads(hq), qkv.columns(hq * d, hkv * d).splitHeads(hkv)];
          const weight = put(backend, w, [d]);
          backend.rmsNorm(q, q, weight, 1e-6);
          backend.rmsNorm(k, k, weight, 1e-6);
          backend.rotaryEmbedding(q, k, ints(backend, ...positions), put(backend, angles, [50, d]));
          return qkv;
        });
      }
    });

    test.each([1, 24, 517])('silu and multiply, %i columns', async (n) => {
      const x = normals(6 * 2 * n).map((v) => v * 30);
      await compare(native, 1e-6, (backend) => {
        const out = poisoned(backend, [6, n]);
        backend.siluAndMul(out, put(backend, x, [6, 2 * n]));
        return out;
      });
    });

    test('silu at the ends of the range', async () => {
      const gate = [-Infinity, -1000, -90, -0, 0, 90, 1000, NaN];
      const out = poisoned(native, [1, 8]);
      native.siluAndMul(out, put(native, Float32Array.of(...gate, ...Array(8).fill(1)), [1, 16]));
      const y = await native.read(out);
      expect(Math.abs(y[1])).toBeLessThan(1e-30);
      expect([...y.subarray(3, 7)]).toEqual([-0, 0, 90, 1000]);
      expect(y[7]).toBeNaN();
    });

    test.each([
      [1, 2, 5, 10],
      [3, 2, 5, 9],
      [70, 4, 33, 130],
      [2, 8, 300, 1805], // nothing of the last part is left
      [5, 3, 16, 0],
      [0, 2, 4, 8],
    ])('%i rows of %i parts, %i columns each, side by side: %i columns', async (rows, n, width, columns) => {
      const parts = normals(n * rows * width);
      const expected = Float32Array.from({ length: rows * columns }, (_, i) => {
        const [row, column] = [Math.floor(i / columns), i % columns];
        return parts[(Math.floor(column / width) * rows + row) * width + (column % width)];
      });
      for (const backend of [native, new ReferenceBackend()]) {
        const wide = poisoned(backend, [rows, columns + 7]);
        const dense = poisoned(backend, [rows, columns]);
        const from = put(backend, parts, [n, rows, width]);
        for (const out of [wide.columns(3, columns), dense]) backend.concatColumns(out, from);
        expectSameBits(await backend.read(dense), expected, backend.name);
        const kept = await backend.read(wide); // columns beside the output are untouched
        expect(kept.filter(Number.isNaN)).toHaveLength(rows * 7);
        expectSameBits(
          kept.filter((x) => !Number.isNaN(x)),
          expected,
          backend.name,
        );
      }
    });

    test('numbers are copied out at once, into shared memory too', () => {
      for (const backend of [native, new ReferenceBackend()]) {
        const values = normals(60);
        const rows = new Tensor(put(backend, values, [6, 10]).storage, [2, 10], 'float32', undefined, 30);
        const shared = new Float32Array(new SharedArrayBuffer(4 * 25), 4, 20).fill(NaN);
        backend.copyOut(rows, shared);
        expectSameBits(shared.slice(), values.slice(30, 50), backend.name);
        const doubled = shared.map((x) => 2 * x);
        shared.set(doubled);
        backend.write(rows, shared);
        backend.copyOut(rows, shared.fill(NaN));
        expectSameBits(shared.slice(), doubled, backend.name);
        const counts = new Int32Array(3);
        backend.copyOut(ints(backend, 7, -8, 9), counts);
        expect([...counts]).toEqual([7, -8, 9]);

        expect(() => backend.copyOut(rows, new Float32Array(19))).toThrow(/copyOut: expected 20 float32.*got 19/);
        expect(() => backend.copyOut(rows, new Int32Array(20))).toThrow(/copyOut: expected 20 float32.*an Int32Array/);
        expect(() => backend.copyOut(rows.columns(0, 4), new Float32Array(8))).toThrow(/\[2,4\] must be contiguous/);
        for (const wrong of [new Float32Array(19), new Int32Array(20)])
          expect(() => backend.copyOut(rows, wrong)).toThrow(InvalidTensorError);
      }
      expect(() => native.copyOut(native.allocate([4], 'bfloat16'), new Float32Array(4))).toThrow(
        /copyOut: expected a float32 or int32 tensor, got \[4\] bfloat16/,
      );
    });

    test.each(DTYPES)('key/value cache of %s: rounds, scatters, skips slot -1', async (dtype) => {
      const [t, h, d] = [5, 2, 24];
      const [k, v] = [normals(t * h * d), normals(t * h * d)];
      const caches = [0, 1].map(() => native.allocate([4, 3, h, d], dtype));
      const fused = put(
        native,
        Float32Array.from({ length: t * 2 * h * d }, (_, i) => {
          const [row, column] = [Math.floor(i / (2 * h * d)), i % (2 * h * d)];
          return column < h * d ? k[row * h * d + column] : v[row * h * d + column - h * d];
        }),
        [t, 2 * h * d],
      );
      const parts = [fused.columns(0, h * d).splitHeads(h), fused.columns(h * d, h * d).splitHeads(h)];
      const slots = [11, -1, 0, 4, 5];
      native.storeKvCache(parts[0], parts[1], caches[0], caches[1], ints(native, ...slots));
      // Read back through attention over one key: its softmax weight is 1, the output is the value.
      for (const [token, slot] of slots.entries()) {
        if (slot < 0) continue;
        const out = poisoned(native, [1, h, d]);
        native.attnWithKvCache(
          out,
          put(native, normals(h * d), [1, h, d]),
          view(caches[0], slot),
          view(caches[1], slot),
          {
            contextLens: ints(native, 1),
            blockTables: put(native, Int32Array.of(0), [1, 1]),
            maxContextLen: 1,
            softmaxScale: 1,
            attnBackend: 'flash',
            workspace: null,
          },
        );
        const expected = v.subarray(token * h * d, (token + 1) * h * d).map((x) => roundTo(dtype, x));
        expect(await native.read(out)).toEqual(expected);
      }
      function view(cache: Tensor, slot: number): Tensor {
        return new Tensor(cache.storage, [1, 1, h, d], dtype, undefined, slot * h * d);
      }
    });
  });

  describe.each(DTYPES)('attention over %s keys', (dtype) => {
    test.each([
      [4, 2, 64],
      [2, 1, 16],
      [6, 2, 80],
      [3, 3, 34],
      [8, 1, 128],
      [2, 2, 256],
    ])('%i heads, %i key heads of %i: reference, chunks, blocks and decode agree', async (heads, kvHeads, dim) => {
      await attentionAgrees(native, { heads, kvHeads, dim, dtype, keys: 70 + below(30) });
    });

    test('contexts of several segments, split over threads or not', async () => {
      const shape = { heads: 2, kvHeads: 1, dim: 32, dtype, keys: 1100 };
      const single = new CpuBackend(addon, { isa, threads: 1 });
      const many = new CpuBackend(addon, { isa, threads: 8 });
      const [input, queries] = [attentionInput(shape), 3];
      const [a, b] = [await decodeLast(single, input, queries), await decodeLast(many, input, queries)];
      expectSameBits(b, a);
      expectSameBits(await prefillTail(many, input, queries), a);
      single.close();
      many.close();
    });

    test('no keys and no queries give zeros, and nothing else', async () => {
      const cache = put(native, normals(2 * 4 * 16), [2, 4, 1, 16], dtype);
      const out = poisoned(native, [2, 2, 16]);
      const q = put(native, normals(2 * 2 * 16), [2, 2, 16]);
      const common = { softmaxScale: 1, attnBackend: 'flash', workspace: null } as const;
      const blockTables = put(native, Int32Array.of(-1, 1, -1, 0), [2, 2]); // -1: never read
      native.attnWithKvCache(out, q, cache, cache, {
        ...common,
        blockTables,
        contextLens: ints(native, 0, 0),
        maxContextLen: 0,
      });
      expect([...(await native.read(out))]).toEqual(Array(64).fill(0));
      const empty = native.allocate([0, 2, 16], 'float32');
      const cu = ints(native, 0, 0, 0);
      native.attnVarlen(empty, empty, cache, cache, {
        ...common,
        blockTables,
        cuSeqlensQ: cu,
        cuSeqlensK: cu,
        maxSeqlenQ: 0,
        maxSeqlenK: 0,
        causal: true,
      });
    });
  });

  test("sampling draws the reference's tokens", async () => {
    const [rows, v] = [60, 3001];
    const logits = normals(rows * v).map((x) => x * 3);
    for (let i = 0; i < v; i += 7) logits[5 * v + i] = 9; // ties
    const choose = <T>(...from: T[]): T => from[below(from.length)];
    const columns = (pick: () => number) => Float32Array.from({ length: rows }, pick);
    const params = {
      temperature: columns(() => choose(0, 0.3, 1, 1.7, 0.01)),
      topP: columns(() => choose(1, 1, 0.9, 0.5, 1e-6)),
      minP: columns(() => choose(0, 0, 0.05, 1)),
    };
    const topK = Int32Array.from({ length: rows }, () => choose(0, 0, 1, 5, 50, 5000));
    const seeds = Int32Array.from({ length: 2 * rows }, () => below(2 ** 32) | 0);
    const positions = Int32Array.from({ length: rows }, () => below(2 ** 31));
    const draw = async (backend: Backend) => {
      const out = backend.allocate([rows], 'int32');
      const args: SampleArgs = {
        temperature: put(backend, params.temperature, [rows]),
        topP: put(backend, params.topP, [rows]),
        minP: put(backend, params.minP, [rows]),
        topK: put(backend, topK, [rows]),
        seed: put(backend, seeds, [rows, 2]),
        position: put(backend, positions, [rows]),
      };
      backend.sample(out, put(backend, logits, [rows, v]), args);
      return backend.read(out);
    };
    expect(await draw(native)).toEqual(await draw(new ReferenceBackend()));
  });
});

describe('lifetime and errors', () => {
  const make = () => new CpuBackend(addon);

  test('closing frees everything, twice is harmless, use afterwards is an error', () => {
    const backend = make();
    const x = backend.allocate([4, 4], 'float32');
    const arena = backend.reserveArena(1 << 20);
    expect(backend.allocatedBytes).toBe(64 + (1 << 20));
    arena.free();
    arena.free();
    expect(backend.allocatedBytes).toBe(64);
    backend.close();
    backend.close();
    expect(backend.allocatedBytes).toBe(0);
    expect(() => backend.siluAndMul(x, x)).toThrow(InvalidTensorError);
    expect(() => backend.allocate([1], 'float32')).toThrow(BackendError);
  });

  test('new memory is zero, aligned and not touched before use', async () => {
    const backend = make();
    const before = process.memoryUsage().rss;
    const big = backend.allocate([2 ** 31], 'bfloat16'); // 4 GiB of address space
    expect(big.storage.address! % 64).toBe(0);
    expect(process.memoryUsage().rss - before).toBeLessThan(2 ** 28);
    expect(await backend.read(backend.allocate([100], 'float32'))).toEqual(new Float32Array(100));
    backend.close();
  });

  test('small allocations share slabs: apart, aligned, zero and exactly counted', async () => {
    const backend = make();
    const sizes = Array.from({ length: 60 }, () => 1 + below(200_000));
    const tensors = sizes.map((n) => poisoned(backend, [n]));
    expect(backend.allocatedBytes).toBe(4 * sizes.reduce((a, b) => a + b, 0));
    const spans = tensors.map((t, i) => [t.storage.address!, t.storage.address! + 4 * sizes[i]]);
    spans.sort((a, b) => a[0] - b[0]);
    for (const [i, [start]] of spans.entries()) {
      expect(start % 64).toBe(0);
      if (i > 0) expect(start).toBeGreaterThanOrEqual(spans[i - 1][1]);
    }
    const before = backend.allocatedBytes;
    for (let i = 0; i < 100; i++) backend.reserveArena(1 + below(1_000_000)).free();
    expect(backend.allocatedBytes).toBe(before);
    expect(await backend.read(backend.allocate([1000], 'float32'))).toEqual(new Float32Array(1000));
    backend.close();
  });

  test('memory that cannot be had is an error naming the bytes', () => {
    const backend = make();
    expect(() => backend.allocate([2 ** 50], 'float32')).toThrow(/4503599627370496 bytes/);
    expect(() => backend.allocate([2 ** 50], 'float32')).toThrow(BackendError);
    backend.close();
  });

  test('indices that point outside memory', () => {
    const backend = make();
    const x = put(backend, normals(8 * 16), [8, 16]);
    const heads = x.splitHeads(1);
    const out = poisoned(backend, [1, 16]);
    const cache = backend.allocate([2, 4, 1, 16], 'bfloat16');
    const one = out.splitHeads(1);
    const common = { softmaxScale: 1, attnBackend: 'flash', workspace: null, maxContextLen: 9 } as const;
    const decode = (length: number, ...table: number[]) =>
      backend.attnWithKvCache(one, one, cache, cache, {
        ...common,
        contextLens: ints(backend, length),
        blockTables: put(backend, Int32Array.from(table), [1, table.length]),
      });
    const bad: Record<string, () => void> = {
      'embedding: Expected values from 0 to 7 for ids but received 8': () =>
        backend.embedding(out, ints(backend, 8), x, null),
      'embedding: Expected values from 0 to 7 for ids but received -1': () =>
        backend.embedding(out, ints(backend, -1), x, null),
      'gatherRows: Expected values from 0 to 7 for rows': () => backend.gatherRows(out, x, ints(backend, 8)),
      'rotaryEmbedding: Expected values from 0 to 7 for positions': () =>
        backend.rotaryEmbedding(one, one, ints(backend, 8), x),
      'storeKvCache: Expected values from -1 to 7 for slotMapping': () =>
        backend.storeKvCache(heads, heads, cache, cache, ints(backend, 0, 1, 2, 3, 4, 5, 6, 8)),
      'Expected blocks from 0 to 1 for blockTables but received 2': () => decode(5, 0, 2),
      "Expected from 0 to 8 for a sequence's keys but received 9": () => decode(9, 0, 1),
      "for a sequence's keys but received -1": () => decode(-1, 0, 1),
      'Expected entry 1 from 0 to 1 for cuSeqlensQ but received 2': () =>
        backend.attnVarlen(one, one, heads, heads, {
          ...common,
          cuSeqlensQ: ints(backend, 0, 2),
          cuSeqlensK: ints(backend, 0, 2),
          causal: true,
          blockTables: null,
          maxSeqlenQ: 2,
          maxSeqlenK: 2,
        }),
      'concatColumns: Expected at most 32 for columns of out but received 33': () =>
        backend.concatColumns(backend.allocate([4, 33], 'float32'), backend.allocate([2, 4, 16], 'float32')),
      'concatColumns: Expected size 4 for rows of out but received 3': () =>
        backend.concatColumns(backend.allocate([3, 32], 'float32'), backend.allocate([2, 4, 16], 'float32')),
      'concatColumns: Expected float32 for parts': () =>
        backend.concatColumns(backend.allocate([4, 32], 'float32'), backend.allocate([2, 4, 16], 'int32')),
      'concatColumns: Expected a contiguous tensor for parts': () =>
        backend.concatColumns(
          backend.allocate([4, 8], 'float32'),
          backend.allocate([2, 4, 16], 'float32').columns(0, 4),
        ),
      'linear: weight must come from allocateWeight': () => backend.linear(out, out, x, PLAIN),
      'linear: Expected float32 for x': () => backend.linear(out, ints(backend, 1), x, PLAIN),
    };
    for (const [message, act] of Object.entries(bad)) {
      expect(act, message).toThrow(InvalidTensorError);
      expect(act).toThrow(message.replace('float32 for x', '2 dimensions for x'));
    }
    const reference = new ReferenceBackend();
    const floats = (...shape: number[]) => reference.allocate(shape, 'float32');
    const tooLarge = ints(reference, 8);
    expect(() => reference.embedding(floats(1, 4), tooLarge, floats(8, 4), null)).toThrow('Token id 8 is out of range');
    expect(() => reference.concatColumns(floats(4, 33), floats(2, 4, 16))).toThrow('[2,4,16] do not fill [4,33]');
    backend.close();
  });

  test('options', () => {
    expect(() => new CpuBackend(addon, { isa: 'mmx' })).toThrow(ConfigError);
    expect(() => new CpuBackend(addon, { isa: 'mmx' })).toThrow(
      /NANOVLLM_CPU_ISA.*amx, avx512bf16, avx512, avx2, baseline/,
    );
    for (const threads of ['0', 'two', -1, 1.5, 257]) {
      expect(() => new CpuBackend(addon, { threads })).toThrow(ConfigError);
      expect(() => new CpuBackend(addon, { threads })).toThrow(`from 1 to 256, got '${threads}'`);
    }
    const lacking = { ...addon, availableIsas: () => ['baseline'] };
    expect(() => new CpuBackend(lacking, { isa: 'amx' })).toThrow(BackendError);
    const backend = new CpuBackend(addon, { isa: 'baseline', threads: '2' });
    expect(backend.description).toMatch(/^cpu: 2 threads, /);
    backend.close();
  });

  test('worker threads load the addon too, and give everything back when they end', async () => {
    const source = `
      const { parentPort, workerData } = require('node:worker_threads');
      const device = new (require(workerData).CpuDevice)('', 3);
      device.allocate(1 << 24);
      parentPort.postMessage(device.describe());
      if (process.argv.includes('stay')) setInterval(() => {}, 1000);`;
    for (const argv of [[], ['stay']]) {
      const worker = new Worker(source, { eval: true, argv, workerData: findAddon('nanovllm') });
      const [description] = await once(worker, 'message');
      expect(description).toMatch(/^cpu: 3 threads/);
      if (argv.length > 0) await worker.terminate();
      else expect(await once(worker, 'exit')).toEqual([0]);
    }
  });

  test('a missing addon says what to do', () => {
    expect(() => loadAddon('/nowhere/nanovllm.node')).toThrow(BackendError);
    expect(() => loadAddon('/nowhere/nanovllm.node')).toThrow(/npm run build[\s\S]*reference/);
  });
});

// --- helpers ----------------------------------------------------------------------------------------

/** Little-endian checkpoint bytes of values that `dtype` can represent. */
function encode(values: Float32Array, dtype: FloatDType): Uint8Array {
  if (dtype === 'float32') return bytesOf(values);
  const reference = new Float32Array(values);
  const out = new Uint16Array(values.length);
  const bits = new Uint32Array(reference.buffer);
  for (let i = 0; i < out.length; i++) out[i] = dtype === 'bfloat16' ? bits[i] >>> 16 : halfBits(reference[i]);
  return new Uint8Array(out.buffer);
}

/** Bits of a number that float16 represents exactly. */
function halfBits(x: number): number {
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0;
  const a = Math.abs(x);
  if (a < 2 ** -14) return sign | (a * 2 ** 24);
  const exponent = Math.floor(Math.log2(a));
  return sign | ((exponent + 15) << 10) | ((a / 2 ** exponent - 1) * 1024);
}

interface AttentionShape {
  heads: number;
  kvHeads: number;
  dim: number;
  dtype: FloatDType;
  keys: number;
}
type AttentionInput = AttentionShape & { q: Float32Array; k: Float32Array; v: Float32Array };

/** One sequence with as many queries as keys. */
const attentionInput = (shape: AttentionShape): AttentionInput => ({
  ...shape,
  q: normals(shape.keys * shape.heads * shape.dim).map((x) => x * 2),
  k: normals(shape.keys * shape.kvHeads * shape.dim, shape.dtype),
  v: normals(shape.keys * shape.kvHeads * shape.dim, shape.dtype),
});

/** The sequence's keys and values in blocks of `blockSize`, in reverse order, behind a block full of NaN. */
function paged(backend: Backend, input: AttentionInput, blockSize: number) {
  const row = input.kvHeads * input.dim;
  const blocks = Math.ceil(input.keys / blockSize);
  const fill = (source: Float32Array) => {
    const cache = backend.allocate([blocks + 1, blockSize, input.kvHeads, input.dim], input.dtype);
    const host = new Float32Array(cache.numel).fill(NaN);
    for (let j = 0; j < input.keys; j++) {
      const slot = (blocks - Math.floor(j / blockSize)) * blockSize + (j % blockSize);
      host.set(source.subarray(j * row, (j + 1) * row), slot * row);
    }
    backend.write(cache, host);
    return cache;
  };
  const table = Int32Array.from({ length: blocks }, (_, i) => blocks - i);
  return { k: fill(input.k), v: fill(input.v), table };
}

const FLASH = { attnBackend: 'flash', workspace: null } as const;
const scaleOf = (input: AttentionInput): number => 1 / Math.sqrt(input.dim);

/** Queries `from … to - 1`, which see keys up to their own, through the paged or (blockSize 0) contiguous kernel. */
async function prefill(
  backend: Backend,
  input: AttentionInput,
  from: number,
  to: number,
  blockSize: number,
  math = false,
) {
  const { heads, kvHeads, dim } = input;
  const row = kvHeads * dim;
  const out = poisoned(backend, [to - from, heads, dim]);
  const q = put(backend, input.q.slice(from * heads * dim, to * heads * dim), [to - from, heads, dim]);
  const kv = blockSize
    ? paged(backend, input, blockSize)
    : {
        k: put(backend, input.k.slice(0, to * row), [to, kvHeads, dim], input.dtype),
        v: put(backend, input.v.slice(0, to * row), [to, kvHeads, dim], input.dtype),
        table: null,
      };
  backend.attnVarlen(out, q, kv.k, kv.v, {
    cuSeqlensQ: ints(backend, 0, to - from),
    cuSeqlensK: ints(backend, 0, to),
    maxSeqlenQ: to - from,
    maxSeqlenK: to,
    softmaxScale: scaleOf(input),
    causal: true,
    blockTables: kv.table && put(backend, kv.table, [1, kv.table.length]),
    ...(math ? { attnBackend: 'sdpa.math', workspace: workspace(backend, input, 1, to - from, to) } : FLASH),
  });
  return (await backend.read(out)) as Float32Array;
}

function workspace(
  backend: Backend,
  { heads, kvHeads, dim }: AttentionInput,
  w: number,
  queries: number,
  keys: number,
) {
  return {
    k: poisoned(backend, [w, keys, kvHeads, dim]),
    v: poisoned(backend, [w, keys, kvHeads, dim]),
    scores: poisoned(backend, [w, heads, queries, keys]),
  };
}

/** The decode kernel for queries at `positions`, as one batch of that many sequences. */
async function decode(backend: Backend, input: AttentionInput, positions: number[], blockSize: number, math = false) {
  const { heads, dim } = input;
  const kv = paged(backend, input, blockSize);
  const [b, width] = [positions.length, kv.table.length];
  const rows = positions.flatMap((i) => [...input.q.subarray(i * heads * dim, (i + 1) * heads * dim)]);
  const out = poisoned(backend, [b, heads, dim]);
  backend.attnWithKvCache(out, put(backend, Float32Array.from(rows), [b, heads, dim]), kv.k, kv.v, {
    contextLens: ints(backend, ...positions.map((i) => i + 1)),
    blockTables: put(
      backend,
      Int32Array.from({ length: b * width }, (_, i) => kv.table[i % width]),
      [b, width],
    ),
    maxContextLen: input.keys,
    softmaxScale: scaleOf(input),
    ...(math ? { attnBackend: 'sdpa.math', workspace: workspace(backend, input, b, 1, input.keys) } : FLASH),
  });
  return (await backend.read(out)) as Float32Array;
}

const decodeLast = (backend: Backend, input: AttentionInput, n: number) =>
  decode(
    backend,
    input,
    Array.from({ length: n }, (_, i) => input.keys - n + i),
    16,
  );
const prefillTail = (backend: Backend, input: AttentionInput, n: number) =>
  prefill(backend, input, input.keys - n, input.keys, 16);

async function attentionAgrees(native: CpuBackend, shape: AttentionShape): Promise<void> {
  const input = attentionInput(shape);
  const { keys, heads, dim } = input;
  const row = heads * dim;
  const reference = new ReferenceBackend();
  const expected = await prefill(reference, input, 0, keys, 0);
  // bfloat16 keys may be multiplied by matrix units, which round queries and weights to bfloat16 too.
  const tolerance = shape.dtype === 'bfloat16' ? 1e-2 : 1e-5;
  const whole = await prefill(native, input, 0, keys, 0);
  expect(relativeError(whole, expected)).toBeLessThan(tolerance);
  expect(relativeError(await prefill(native, input, 0, keys, 7, true), expected)).toBeLessThan(1e-5);

  for (const blockSize of [1, 5, 16, 256]) {
    expectSameBits(await prefill(native, input, 0, keys, blockSize), whole, `blocks of ${blockSize}`);
  }
  const cuts = [0, 1, 17 + below(10), 40 + below(20), keys];
  for (let i = 0; i + 1 < cuts.length; i++) {
    const chunk = await prefill(native, input, cuts[i], cuts[i + 1], 16);
    expectSameBits(chunk, whole.subarray(cuts[i] * row, cuts[i + 1] * row), `queries ${cuts[i]} to ${cuts[i + 1]}`);
  }
  const positions = [0, 31, 32, below(keys), keys - 1];
  const batch = await decode(native, input, positions, 16);
  const maths = await decode(native, input, positions, 16, true);
  for (const [b, i] of positions.entries()) {
    const mine = batch.slice(b * row, (b + 1) * row);
    expectSameBits(mine, whole.subarray(i * row, (i + 1) * row), `decode at ${i}`);
    expectSameBits(await decode(native, input, [i], 8), mine, `decode at ${i} alone`);
    expectSameBits(await decode(native, input, [i], 4, true), maths.subarray(b * row, (b + 1) * row), 'sdpa.math');
  }
  reference.close();
}
