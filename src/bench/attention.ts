import { type CudaAddon, findAddon, loadAddon } from '#nano/backends/addon';
import { type CudaBackend, createCudaBackend } from '#nano/backends/cuda';
import { intTensor, RandomPool, shuffled } from '#nano/bench/inputs';
import type { BenchContext } from '#nano/bench/options';
import { DECODE_PEERS, PEERS_FROM, PREFILL_PEERS } from '#nano/bench/peers';
import type { BenchRow } from '#nano/bench/report';
import { rotated, timed } from '#nano/bench/timing';

/** Qwen3-0.6B's and 1.7B's. */
const [Q_HEADS, KV_HEADS, DIM] = [16, 8, 128];
const FLASH = { softmaxScale: 1 / Math.sqrt(DIM), attnBackend: 'flash', workspace: null } as const;
const KV_BYTES = 2 * KV_HEADS * DIM * 2;

/** Numbers that the largest shape's inputs have: 32 × 8192 tokens' keys and values, and the queries. */
const POOL = 2 ** 29 + 2 ** 20;

/** Sequences, and tokens of each. */
type Shape = readonly [batch: number, length: number];

/** One table: all rungs at all shapes, as rates that the machine bounds. */
interface Ladder {
  readonly table: string;
  readonly unit: string;
  readonly shapes: readonly Shape[];
  readonly rungs: readonly string[];
  readonly open: (rung: string) => CudaBackend;
  /** What counts: operations in TFLOP, or gigabytes read. */
  readonly work: (shape: Shape) => number;
  readonly milliseconds: (pool: RandomPool, shape: Shape) => number | null;
  readonly peers: Readonly<Record<string, readonly number[]>>;
  readonly bound: number | undefined;
}

/**
 * The attention ladders of a GPU, each kernel alone. Where the GPU lacks what the highest rung needs, its column shows the one
 * below.
 */
export async function attention({ limits, log }: BenchContext): Promise<BenchRow[]> {
  const machine = limits();
  const rows: BenchRow[] = [];
  for (const ladder of ladders(machine && machine.matrixRate / 1e12, machine && machine.bandwidth / 1e9)) {
    const { table, unit, shapes, work, peers, bound } = ladder;
    const column = (name: string, values: readonly (number | null)[]) =>
      values.forEach((value, i) =>
        rows.push({ table, what: `${shapes[i][0]} × ${shapes[i][1]}`, column: name, value, unit }),
      );
    for (const rung of ladder.rungs) {
      log(`${table}: ${rung} …`);
      const backend = ladder.open(rung);
      const pool = new RandomPool(backend, POOL);
      const times = shapes.map((shape) => ladder.milliseconds(pool, shape));
      column(
        rung,
        times.map((ms, i) => ms && (1e3 * work(shapes[i])) / ms),
      );
      backend.close();
    }
    for (const [name, values] of Object.entries(peers)) column(name, values);
    if (bound) column('bound', Array(shapes.length).fill(bound));
  }
  return rows;
}

function ladders(teraops: number | undefined, gigabytes: number | undefined): Ladder[] {
  const { prefillRungs, decodeRungs } = loadAddon<CudaAddon>(findAddon('nanovllm_cuda'));
  const heads = `${Q_HEADS}/${KV_HEADS} heads × ${DIM}`;
  const prefill = (blockSize: number): Ladder => ({
    table: `Prefill attention, ${blockSize ? `in blocks of ${blockSize}` : 'contiguous'}: TFLOP/s; causal, ${heads}${blockSize ? '' : `, ${PEERS_FROM}`}`,
    unit: 'TFLOP/s',
    shapes: [[8, 512], [4, 2048], [2, 4096], [1, 16384]], // biome-ignore format: one line
    rungs: prefillRungs,
    open: (rung) => createCudaBackend({ prefill: rung }),
    work: ([batch, length]) => (4 * Q_HEADS * DIM * batch * (length * (length + 1))) / 2 / 1e12,
    milliseconds: (pool, shape) => prefillMs(pool, shape, blockSize),
    peers: blockSize ? {} : PREFILL_PEERS,
    bound: teraops,
  });
  const decode: Ladder = {
    table: `Decode attention, in blocks of 16: GB/s of keys and values; ${heads}, ${PEERS_FROM}`,
    unit: 'GB/s',
    shapes: [[1, 2048], [8, 2048], [64, 1024], [256, 1024], [32, 8192]], // biome-ignore format: one line
    rungs: decodeRungs,
    open: (rung) => createCudaBackend({ decode: rung }),
    work: ([batch, length]) => (batch * length * KV_BYTES) / 1e9,
    milliseconds: decodeMs,
    peers: DECODE_PEERS,
    bound: gigabytes,
  };
  return [prefill(0), prefill(16), prefill(256), decode];
}

function prefillMs(pool: RandomPool, [batch, length]: Shape, blockSize: number): number | null {
  const { backend } = pool;
  const tokens = batch * length;
  const kv = blockSize ? [tokens / blockSize, blockSize, KV_HEADS, DIM] : [tokens, KV_HEADS, DIM];
  const inputs = rotated(pool, [tokens, Q_HEADS, DIM], kv, kv);
  const out = backend.allocate([tokens, Q_HEADS, DIM], 'bfloat16');
  const starts = Int32Array.from({ length: batch + 1 }, (_, b) => b * length);
  const cuSeqlens = intTensor(backend, starts);
  const lengths = { cuSeqlensQ: cuSeqlens, cuSeqlensK: cuSeqlens, maxSeqlenQ: length, maxSeqlenK: length };
  const blockTables = blockSize ? tables(pool, batch, length / blockSize) : null;
  const args = { ...FLASH, ...lengths, causal: true, blockTables };
  return timed(backend, inputs, ([q, k, v]) => backend.attnVarlen(out, q, k, v, args));
}

function decodeMs(pool: RandomPool, [batch, length]: Shape): number | null {
  const { backend } = pool;
  const blockSize = 16;
  const cache = [(batch * length) / blockSize, blockSize, KV_HEADS, DIM];
  const inputs = rotated(pool, cache, cache, [batch, Q_HEADS, DIM]);
  const out = backend.allocate([batch, Q_HEADS, DIM], 'bfloat16');
  const contextLens = intTensor(backend, new Int32Array(batch).fill(length));
  const blockTables = tables(pool, batch, length / blockSize);
  const args = { ...FLASH, contextLens, blockTables, maxContextLen: length };
  return timed(backend, inputs, ([k, v, q]) => backend.attnWithKvCache(out, q, k, v, args));
}

const tables = ({ backend }: RandomPool, batch: number, blocks: number) =>
  intTensor(backend, shuffled(batch * blocks), [batch, blocks]);
