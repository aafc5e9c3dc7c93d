// Every rung of both attention ladders, and sdpa.math, against float64: the test matrix, lengths at the edges, and the promise of
// `batchInvariant` that a query's attention has the same bits however it is computed.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type CudaAddon, findAddon, loadAddon } from '#nano/backends/addon';
import { type CudaBackend, createCudaBackend } from '#nano/backends/cuda';
import type { AttnBackend } from '#nano/tensor/kernels';
import { Ops } from '#nano/tensor/ops';
import {
  ATTENTION_TOLERANCE,
  type AttentionCase,
  type AttentionInputs,
  drawInputs,
  everyRow,
  expectedRows,
  type Normals,
  placeKeys,
  runAttention,
  someRows,
  worstError,
} from '../helpers/attention';
import { AXES as ANYWHERE, type CellOf, everything, lengthsOf, pairwise } from '../helpers/attention-matrix';
import { HAS_CUDA } from '../helpers/backends';
import { RandomInputs } from '../helpers/random';

const HALVES = ['bfloat16', 'float16'] as const;

/** The matrix. Block sizes that no tile is a multiple of (7) are among them, and head sizes no kernel is made for. */
const AXES = {
  batch: ANYWHERE.batch,
  length: [...ANYWHERE.length, 16384],
  heads: [
    [8, 8],
    [8, 4],
    [16, 8],
    [16, 4],
    [16, 2],
    [32, 16],
    [32, 4],
  ],
  dim: ANYWHERE.dim,
  dtype: HALVES,
  blockSize: [1, 7, 16, 256],
  shape: ['whole', 'suffix', 'ragged', 'near'],
  // As in a captured decode step, which is made for the longest context there may be.
  slack: [false, true],
} as const;
const DECODE = { ...AXES, kind: ['decode'] } as const;
const PREFILL = { ...AXES, kind: ['paged', 'contiguous'] } as const;
type Cell = CellOf<typeof DECODE | typeof PREFILL>;

const full = process.env.NANOVLLM_FULL_MATRIX === '1';
const TIMEOUT = full ? 36_000_000 : 240_000;
/** Where a cell has more key elements than this, it gets fewer sequences: to draw and scatter them takes JavaScript too long. */
const MAX_KEY_ELEMENTS = 2 ** 24;
/** Likewise for queries: only the last of each sequence are computed. The large cells below are not cut. */
const MAX_QUERY_ELEMENTS = 2 ** 20;
/** And for the scores of a sequence, which sdpa.math keeps. */
const MAX_SCORES = 2 ** 26;
/** Rows that are compared with float64: about so much of JavaScript's work, and not fewer than eight. */
const samplesFor = (keys: number, dim: number): number => Math.max(8, Math.min(40, Math.floor(2 ** 25 / (keys * dim))));

describe.skipIf(!HAS_CUDA)('attention on cuda', () => {
  const random = new RandomInputs('cuda attention');
  const normals = pooled(random);
  /** Rungs of the ladder and, with the default backend, sdpa.math. */
  let ladders: Record<'decode' | 'prefill', Attention[]>;
  const worst: Record<string, number> = {};
  const opened: CudaBackend[] = [];

  beforeAll(() => {
    const { prefillRungs, decodeRungs } = loadAddon<CudaAddon>(findAddon('nanovllm_cuda'));
    const make = (name: string, options: object, attnBackend: AttnBackend = 'flash') => {
      const backend = createCudaBackend(options);
      opened.push(backend);
      return {
        name,
        backend,
        attnBackend,
        ops: { bfloat16: new Ops(backend, 'bfloat16'), float16: new Ops(backend, 'float16') },
      };
    };
    const math = make('sdpa.math', {}, 'sdpa.math');
    const invariant = make('invariant', { batchInvariant: true });
    ladders = {
      prefill: [...prefillRungs.map((prefill) => make(prefill, { prefill })), math],
      decode: [...decodeRungs.map((decode) => make(decode, { decode })), invariant, math],
    };
  });
  afterAll(() => {
    console.log('largest relative row error by kernel:', worst);
    for (const backend of opened) backend.close();
  });

  /** Runs a case on all kernels of its kind, and names what is wrong. */
  async function problemsOf(
    what: Omit<AttentionCase, 'attnBackend'>,
    samples?: number,
    kernels = ladders[what.kind === 'decode' ? 'decode' : 'prefill'],
  ): Promise<string[]> {
    const c: AttentionCase = { ...what, attnBackend: 'flash' };
    const dtype = c.dtype as (typeof HALVES)[number];
    const inputs = drawInputs(c, dtype, normals);
    const { rows, needleEffect } = expectedRows(c, inputs, samples ? someRows(c, samples) : everyRow(c));
    // Backends of one process share the GPU's memory: what one has uploaded, and is known to have arrived, all can read.
    const [{ backend: owner }] = kernels;
    const keys = placeKeys(owner, c, inputs);
    await owner.read(owner.allocate([1], 'int32'));
    const problems: string[] = [];
    for (const { name, ops, attnBackend } of kernels) {
      const actual = await runAttention(ops[dtype], { ...c, attnBackend }, inputs, keys);
      ops[dtype].reserveFor(() => {}); // gives the arena back
      const error = worstError(c, actual, rows);
      const label = `${c.kind === 'decode' ? 'decode' : 'prefill'} ${name} ${dtype}`;
      worst[label] = Math.max(worst[label] ?? 0, error);
      const lost = firstNotFinite(actual);
      if (error < ATTENTION_TOLERANCE[dtype] && lost < 0) continue;
      const shape = JSON.stringify({ ...what, lengths: what.lengths.slice(0, 4), batch: what.lengths.length });
      problems.push(
        `${label}: error ${error}${lost < 0 ? '' : `, ${actual[lost]} at ${lost} of ${actual.length}`}: ${shape}`,
      );
    }
    keys.free();
    if (needleEffect < 0.1) problems.push(`a planted key does not matter: ${needleEffect}`);
    return problems;
  }

  const matrices = {
    decode: full ? everything(DECODE) : pairwise(DECODE),
    prefill: full ? everything(PREFILL) : pairwise(PREFILL),
  };
  test.each(['decode', 'prefill'] as const)('%s: the matrix', { timeout: TIMEOUT }, async (which) => {
    const problems: string[] = [];
    for (const [i, cell] of (matrices[which] as Cell[]).entries()) {
      const {
        heads: [heads, kvHeads],
        dim,
        dtype,
        kind,
        blockSize,
        length,
        slack,
      } = cell;
      const batch = Math.max(1, Math.min(cell.batch, Math.floor(MAX_KEY_ELEMENTS / (length * kvHeads * dim))));
      const maxKeys = slack ? 2 * length + 100 : undefined;
      const most = Math.min(MAX_QUERY_ELEMENTS / (batch * heads * dim), MAX_SCORES / (heads * (maxKeys ?? length)));
      const lengths = lengthsOf({ ...cell, batch }, Math.max(1, Math.floor(most)));
      const needle = ([false, 'many', true] as const)[i % 3];
      const seed = random.seed + i;
      const c = { lengths, heads, kvHeads, dim, dtype, kind, blockSize, needle, seed, maxKeys };
      problems.push(...(await problemsOf(c, samplesFor(length, dim))));
    }
    console.log(`${which}: ${matrices[which].length} cells`);
    expect(problems).toEqual([]);
  });

  const QWEN = { heads: 16, kvHeads: 8, dim: 128, dtype: 'bfloat16' } as const;
  test.each<[string, Pick<AttentionCase, 'kind' | 'blockSize'> & Partial<AttentionCase>, number, number]>([
    ['decode, 32 contexts of 4096', { kind: 'decode', blockSize: 16 }, 32, 4096],
    ['decode, 8 contexts of 16384 with heads of 64', { kind: 'decode', blockSize: 256, dim: 64, kvHeads: 4 }, 8, 16384],
    ['decode, one context of 65536', { kind: 'decode', blockSize: 16, needle: 'many' }, 1, 65536],
    ['a prompt of 16384', { kind: 'paged', blockSize: 16 }, 1, 16384],
    ['16 prompts of 2048', { kind: 'paged', blockSize: 256 }, 16, 2048],
    ['a prompt of 4096 in float16', { kind: 'contiguous', blockSize: 16, dtype: 'float16' }, 1, 4096],
  ])('uncut: %s', { timeout: TIMEOUT }, async (_, options, batch, length) => {
    const lengths = lengthsOf({ kind: options.kind, batch, length, shape: 'near' }, Infinity);
    // The dense scores of sdpa.math would not fit.
    const kernels = ladders[options.kind === 'decode' ? 'decode' : 'prefill'];
    const flash = kernels.filter(({ attnBackend }) => attnBackend === 'flash');
    const c = { ...QWEN, ...options, lengths, seed: random.seed };
    const problems = await problemsOf(c, 2 * samplesFor(length, c.dim), flash);
    expect(problems).toEqual([]);
  });

  // Ends of tiles and blocks, one before and one after; all queries, all rows compared.
  test.each(HALVES)('every length around a tile, %s', { timeout: TIMEOUT }, async (dtype) => {
    const problems: string[] = [];
    const edges = [1, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 257];
    for (const dim of [64, 128]) {
      for (const [kind, blockSize] of [
        ['decode', 16],
        ['decode', 7],
        ['paged', 16],
        ['paged', 1],
        ['contiguous', 1],
      ] as const) {
        const lengths = edges.map((keys, b) => ({
          keys,
          queries: kind === 'decode' ? 1 : b % 2 ? keys : Math.min(keys, 1 + b),
        }));
        const shape = { lengths, heads: 4, kvHeads: 2, dim, dtype, kind, blockSize, seed: random.seed + dim };
        for (const needle of [false, 'many'] as const) problems.push(...(await problemsOf({ ...shape, needle })));
      }
    }
    expect(problems).toEqual([]);
  });

  test.each(HALVES)('contiguous prefill without a causal mask, %s', async (dtype) => {
    const lengths = [
      { queries: 5, keys: 40 },
      { queries: 0, keys: 0 },
      { queries: 133, keys: 333 },
      { queries: 300, keys: 300 },
    ];
    const shape = { lengths, heads: 4, kvHeads: 2, dtype, kind: 'contiguous', blockSize: 16, causal: false } as const;
    for (const dim of [64, 80, 128]) expect(await problemsOf({ ...shape, dim, seed: random.seed })).toEqual([]);
  });

  test.each(HALVES)('queries without keys give zeros, %s', async (dtype) => {
    for (const kind of ['decode', 'paged', 'contiguous'] as const) {
      // A captured step begins with contexts of length 0 only; a causal query may see nothing while later ones do.
      const all = [0, 0, 0].map((keys) => ({ queries: 1, keys }));
      const some = [0, 3, 0, 1, 70, 0].map((keys) => ({ queries: kind === 'decode' ? 1 : 5, keys }));
      for (const lengths of [all, some]) {
        const shape = { lengths, heads: 8, kvHeads: 4, dim: 128, dtype, kind, blockSize: 16, maxKeys: 4096 } as const;
        expect(await problemsOf({ ...shape, seed: random.seed })).toEqual([]);
      }
    }
  });

  test.each(HALVES)(
    'batchInvariant: a query has the same bits decoded, in a chunk, and in the whole prompt, %s',
    async (dtype) => {
      const invariant = ladders.decode.find(({ name }) => name === 'invariant') as Attention;
      const ops = invariant.ops[dtype];
      for (const [dim, heads, kvHeads] of [
        [128, 16, 8],
        [64, 4, 2],
        [80, 8, 1],
      ]) {
        // Three sequences of which the middle one is looked at: what lies beside it changes, and where its blocks are.
        const keys = 301;
        const lengths = [17, keys, 96].map((keys) => ({ keys, queries: keys }));
        const shape = { heads, kvHeads, dim, dtype, blockSize: 16, seed: random.seed, attnBackend: 'flash' } as const;
        const whole: AttentionCase = { ...shape, lengths, kind: 'paged' };
        const inputs = drawInputs(whole, dtype, normals);
        const placed = placeKeys(invariant.backend, whole, inputs);
        const row = heads * dim;
        const all = (await runAttention(ops, whole, inputs, placed)).slice(17 * row, (17 + keys) * row);
        /** Queries `from … to - 1` of the middle sequence, alone or beside the others. */
        const part = async (
          kind: 'decode' | 'paged',
          from: number,
          to: number,
          alone: boolean,
        ): Promise<Float32Array> => {
          const middle = { queries: to - from, keys: to };
          const q = inputs.q.slice((17 + from) * row, (17 + to) * row);
          if (alone) {
            const one: AttentionInputs = { ...inputs, q, tables: [inputs.tables[1]] };
            return runAttention(ops, { ...shape, lengths: [middle], kind }, one, placed);
          }
          const others = [
            { queries: 1, keys: 9 },
            { queries: 1, keys: 90 },
          ];
          const beside = new Float32Array(q.length + 2 * row);
          beside.set(inputs.q.subarray(0, row));
          beside.set(q, row);
          beside.set(inputs.q.subarray(0, row), row + q.length);
          const three: AttentionCase = { ...shape, lengths: [others[0], middle, others[1]], kind };
          return (await runAttention(ops, three, { ...inputs, q: beside }, placed)).slice(row, row + q.length);
        };
        for (let from = 0; from < keys; ) {
          const to = Math.min(keys, from + 1 + random.below(90));
          const chunk = await part('paged', from, to, random.below(2) === 0);
          expect(sameBits(chunk, all.subarray(from * row, to * row)), `chunk ${from} to ${to}`).toBe(true);
          from = to;
        }
        for (const at of [0, 1, 15, 16, 63, 64, 127, 128, 200, 255, 256, 299, 300]) {
          for (const alone of [true, false]) {
            const decoded = await part('decode', at, at + 1, alone);
            expect(sameBits(decoded, all.subarray(at * row, (at + 1) * row)), `query ${at}`).toBe(true);
          }
        }
        placed.free();
      }
    },
  );

  test('kernels are chosen by name, and a wrong name is answered with those there are', () => {
    expect(() => createCudaBackend({ prefill: 'flashiest' })).toThrow(/no attention kernel 'flashiest'.*mma, wgmma/);
    expect(() => createCudaBackend({ decode: 'warped' })).toThrow(/no attention kernel 'warped'.*packed/);
  });
});

/** One implementation of attention, of a kind. */
interface Attention {
  readonly name: string;
  readonly backend: CudaBackend;
  readonly attnBackend: AttnBackend;
  readonly ops: Readonly<Record<(typeof HALVES)[number], Ops>>;
}

/** Where a number is missing, or -1. */
function firstNotFinite(values: Float32Array): number {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) return i;
  return -1;
}

/** Whether two arrays are the same, bit for bit. (`toEqual` would take seconds for a million elements.) */
function sameBits(a: Float32Array, b: Float32Array): boolean {
  const bytes = (values: Float32Array) => Buffer.from(values.buffer, values.byteOffset, values.byteLength);
  return bytes(a).equals(bytes(b));
}

/** Numbers cut at random from a pool of a million: to draw each would take longer than all the rest. */
function pooled(random: RandomInputs): Normals {
  const pools = new Map<string, Float32Array>();
  return (count, dtype) => {
    const pool = pools.get(dtype) ?? random.normals(2 ** 20, dtype);
    pools.set(dtype, pool);
    const values = new Float32Array(count);
    for (let done = 0; done < count; ) {
      const length = Math.min(count - done, 2 ** 12 + random.below(2 ** 14));
      const from = random.below(pool.length - length);
      values.set(pool.subarray(from, from + length), done);
      done += length;
    }
    return values;
  };
}
