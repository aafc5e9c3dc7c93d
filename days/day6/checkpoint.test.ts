import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Worker } from 'node:worker_threads';
import { buildSync } from 'esbuild';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import { ReferenceBackend } from '#nano/backends/reference/index';
import { LocalBarrier } from '#nano/distributed/local-barrier';
import { LocalGroup } from '#nano/distributed/local-group';
import { ALONE, type ProcessGroup } from '#nano/distributed/process-group';
import { DecodeGraph, type DecodeOutput, graphBatchSizes } from '#nano/engine/decode-graph';
import type { StepSequence } from '#nano/engine/step';
import { ParallelLMHead, VocabParallelEmbedding } from '#nano/layers/embed-head';
import { MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear } from '#nano/layers/linear';
import type { Parameter } from '#nano/layers/parameter';
import { Sampler } from '#nano/layers/sampler';
import type { CausalLM } from '#nano/models/registry';
import type { Backend, DeviceGraph } from '#nano/tensor/kernels';
import { Ops } from '#nano/tensor/ops';
import { Recording } from '#nano/tensor/recording';
import type { Storage, Tensor } from '#nano/tensor/tensor';
import type { Context } from '#nano/utils/context';

// ---- Random numbers, tensors, comparisons ----

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
const REPEAT = `(SEED=${seed} repeats these numbers)`;
let state = seed | 1;
// The same numbers for a test whether it runs alone or not.
beforeEach(() => {
  state = seed | 1;
});

/** In (0, 1). */
function uniform(): number {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return ((state >>> 0) + 0.5) / 2 ** 32;
}

/** Float32 numbers in (-1, 1). */
const randoms = (count: number): Float32Array => Float32Array.from({ length: count }, () => 2 * uniform() - 1);
/** Integers from -99 to 99: their sums are exact, in whatever order. */
const integers = (count: number): Float32Array =>
  Float32Array.from({ length: count }, () => Math.floor(199 * uniform()) - 99);

const size = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);
const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
const valuesOf = (x: Tensor) =>
  (x.storage.array as Float32Array | Int32Array).slice(x.offset, x.offset + size(x.shape));

/** Names the first number that is further off than `tolerance`, which is relative to numbers above 1. */
function expectNumbers(actual: ArrayLike<number>, expected: ArrayLike<number>, what: string, tolerance = 0): void {
  expect(actual.length, `${what}: how many numbers there are`).toBe(expected.length);
  for (let i = 0; i < expected.length; i++) {
    if (Math.abs(actual[i] - expected[i]) <= tolerance * Math.max(1, Math.abs(expected[i]))) continue;
    expect(actual[i], `${what}, number ${i} ${REPEAT}`).toBe(expected[i]);
  }
}

/** `y[T, N] = x[T, K] · W[N, K]ᵀ + b`, in double precision. */
function product(
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  inputs: number,
  bias?: ArrayLike<number>,
): number[][] {
  const outputs = weight.length / inputs;
  return range(x.length / inputs).map((t) =>
    range(outputs).map((n) =>
      range(inputs).reduce((sum, k) => sum + x[t * inputs + k] * weight[n * inputs + k], bias?.[n] ?? 0),
    ),
  );
}

/** A group of this size in which nothing is ever exchanged. */
const placeOnly = (rank: number, worldSize: number): ProcessGroup => {
  const refuse = () => expect.fail('this layer needs no collective: its outputs need no other rank');
  return { ...ALONE, rank, worldSize, allReduce: refuse, allGather: refuse, broadcast: refuse };
};

function opsFor(group: ProcessGroup): Ops {
  const ops = new Ops(new ReferenceBackend(), 'float32', group);
  ops.reserveFor(() => ops.empty([1 << 16])); // as large an arena as any test here needs
  return ops;
}

function tensorOn(backend: Backend, shape: number[], values: Float32Array | Int32Array): Tensor {
  const made = backend.allocate(shape, values instanceof Int32Array ? 'int32' : 'float32');
  backend.write(made, values);
  return made;
}

// ---- What a loader does ----

/** Tensors of a made-up checkpoint, by name. */
type Checkpoint = Record<string, { readonly shape: readonly number[]; readonly values: Float32Array }>;

/** Copies into the layer what its parameters say, and checks that they say something possible. */
function load(backend: Backend, parameters: readonly Parameter[], checkpoint: Checkpoint, on: string): void {
  const names = parameters.map(({ name }) => name).sort();
  expect(names, `the names of what is to be loaded, ${on}`).toEqual(Object.keys(checkpoint).sort());
  for (const { name, shape, tensor, firstRow, rows, columns } of parameters) {
    const { shape: whole, values } = checkpoint[name];
    expect(shape, `shape of ${name}, which is that in the checkpoint, ${on}`).toEqual(whole);
    const [height, width = 1] = whole;
    const { first: top, count: tall } = rows ?? { first: 0, count: height };
    const { first: left, count: wide } = columns ?? { first: 0, count: width };
    const inside = (n: number, most: number) => Number.isInteger(n) && n >= 0 && n <= most;
    const fits = inside(top, height) && inside(tall, height - top) && inside(left, width) && inside(wide, width - left);
    const part = `rows ${top} … ${top + tall - 1}, columns ${left} … ${left + wide - 1}`;
    if (!fits) expect.fail(`${on}: ${name} is [${whole}] in the checkpoint, and has no ${part}`);
    const [ownRows, ownColumns = 1] = tensor.shape;
    expect(wide, `${on}: columns of ${name} that are kept; the rank's own matrix is that wide`).toBe(ownColumns);
    if (!inside(firstRow, ownRows) || !inside(tall, ownRows - firstRow)) {
      expect.fail(`${on}: ${tall} rows of ${name} do not fit at row ${firstRow} of the rank's own ${ownRows}`);
    }
    const kept = range(tall * wide).map((i) => values[(top + Math.floor(i / wide)) * width + left + (i % wide)]);
    backend.loadRows(tensor, firstRow, new Uint8Array(Float32Array.from(kept).buffer), 'float32');
  }
}

const made = (...shape: number[]) => ({ shape, values: randoms(size(shape)) });

// ---- Ranks as threads, for task 6.1 ----

/**
 * What runs in each thread: the group from your file, and memory whose copies can be slow. A rank that `dawdles` rests before it
 * shows its numbers and whenever it has waited for the others, so that they run ahead of it as far as they are allowed to.
 */
const RANK = `
import { parentPort, workerData } from 'node:worker_threads';
import { LocalBarrier } from '#nano/distributed/local-barrier';
import { LocalGroup } from '#nano/distributed/local-group';
import { Tensor } from '#nano/tensor/tensor';

const { rank, worldSize, shared, jobs, dawdles, GUARD } = workerData;
const cell = new Int32Array(new SharedArrayBuffer(4));
const rest = () => dawdles && Atomics.wait(cell, 0, 0, 20);
const view = ({ storage: { array }, offset, numel }) => {
  const [first, length] = [offset - 3, array.length - 6]; // tensorOf
  if (first + numel > length) throw new Error(numel + ' numbers from number ' + first + ' on: a tensor of ' + length + ' has fewer');
  return array.subarray(offset, offset + numel);
};
const checked = (tensor, values) => {
  if (values.length !== tensor.numel) throw new Error('expected ' + tensor.numel + ' values, got ' + values.length);
  return values;
};
const memory = {
  copyOut(tensor, into) {
    rest();
    checked(tensor, into).set(view(tensor));
  },
  write: (tensor, values) => view(tensor).set(checked(tensor, values)),
};
const { wait } = LocalBarrier.prototype;
LocalBarrier.prototype.wait = function () {
  wait.call(this);
  rest();
};
/** In the middle of a larger array, whose ends must stay as they are. */
const tensorOf = (values) => {
  const array = new Float32Array(values.length + 6).fill(GUARD);
  array.set(values, 3);
  return new Tensor({ alive: true, array }, [values.length], 'float32', undefined, 3);
};
try {
  const group = new LocalGroup(rank, worldSize, shared, memory);
  const results = jobs.map(({ collective, inputs, root }) => {
    const x = tensorOf(inputs[rank]);
    const out = collective === 'allGather' ? tensorOf(new Float32Array(worldSize * x.numel)) : x;
    if (collective === 'allReduce') group.allReduce(x);
    if (collective === 'allGather') group.allGather(out, x);
    if (collective === 'broadcast') group.broadcast(x, root);
    return out.storage.array;
  });
  parentPort.postMessage({ results });
} catch (error) {
  const { name, message, stack, task, file } = error;
  parentPort.postMessage({ error: { name, message, stack, task, file } });
  new LocalBarrier(shared, worldSize).end('another rank failed');
}
`;

const root = resolve(import.meta.dirname, '../..');
const temporary = mkdtempSync(join(tmpdir(), 'ranks-'));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));
let rankFile: string | undefined;

/** Threads know nothing of the test runner, which reads TypeScript: this makes JavaScript of the files under test. */
function bundleRank(): string {
  if (rankFile) return rankFile;
  const { NANOVLLM_CONDITIONS: day, NANOVLLM_EXERCISES: elsewhere } = process.env;
  rankFile = join(temporary, 'rank.cjs');
  buildSync({
    stdin: { contents: RANK, resolveDir: root, sourcefile: 'rank.js' },
    outfile: rankFile,
    bundle: true,
    platform: 'node',
    format: 'cjs',
    sourcemap: 'inline',
    logLevel: 'silent',
    conditions: [...(day ? [day] : []), 'source'],
    alias: elsewhere ? { '#nano/distributed/local-group': resolve(elsewhere, 'local-group.ts') } : {},
  });
  return rankFile;
}

/** A collective, with what each rank brings to it. */
interface Job {
  readonly collective: 'allReduce' | 'allGather' | 'broadcast';
  readonly inputs: readonly Float32Array[];
  /** Of a broadcast. */
  readonly root?: number;
}

interface Answer {
  readonly results?: Float32Array[];
  readonly error?: Error;
}

const GUARD = -4711;

/** Runs the jobs, one after the other, on as many threads as they have inputs. @returns what each rank had after each job */
async function onThreads(jobs: readonly Job[], dawdler = -1): Promise<Float32Array[][]> {
  const worldSize = jobs[0].inputs.length;
  const shared = LocalGroup.sharedMemory(worldSize);
  const file = bundleRank();
  const workers = range(worldSize).map((rank) => {
    const workerData = { rank, worldSize, shared, jobs, dawdles: rank === dawdler, GUARD };
    return new Worker(file, { workerData, execArgv: ['--enable-source-maps'] });
  });
  const answers: (Answer | undefined)[] = workers.map(() => undefined);
  let patience: NodeJS.Timeout | undefined;
  try {
    await new Promise<void>((allDone, giveUp) => {
      /** Ranks wait for the slowest: once one is done with everything, the others are in their last lines. */
      const waitFor = (ms: number) => {
        clearTimeout(patience);
        patience = setTimeout(() => {
          const names = (done: boolean) => range(worldSize).filter((rank) => Boolean(answers[rank]) === done);
          const [done, stuck] = [names(true), names(false)];
          const state = done.length > 0 ? `rank ${done.join(', ')} is done, but` : 'no rank is done:';
          const why = 'All ranks must call the barrier equally often';
          giveUp(new Error(`The ranks hang: ${state} rank ${stuck.join(', ')} still waits. ${why}.`));
        }, ms);
      };
      waitFor(20_000);
      workers.forEach((worker, rank) => {
        worker.on('error', giveUp);
        worker.on('message', (answer: Answer) => {
          answers[rank] = answer;
          if (answers.every(Boolean)) allDone();
          else waitFor(5000);
        });
      });
    });
  } finally {
    clearTimeout(patience);
    new LocalBarrier(shared, worldSize).end('the test is over'); // whoever still waits
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
  const errors = answers.flatMap((answer) => answer?.error ?? []);
  const [own] = [...errors.filter(({ name }) => name !== 'DistributedError'), ...errors];
  if (own) throw Object.assign(new Error(own.message), own);
  return answers.map((answer, rank) =>
    (answer?.results ?? []).map((array, i) => {
      const ends = [...array.subarray(0, 3), ...array.subarray(-3)];
      expect(ends, `rank ${rank}: memory just before and behind the tensor of ${jobs[i].collective}`).toEqual(
        new Array(6).fill(GUARD),
      );
      return array.subarray(3, -3);
    }),
  );
}

const sumOf = (inputs: readonly Float32Array[]): Float32Array =>
  inputs[0].map((_, i) => inputs.reduce((sum, values) => sum + values[i], 0));
const concatenated = (inputs: readonly Float32Array[]): number[] => inputs.flatMap((values) => [...values]);

const reduce = (worldSize: number, length: number): Job => ({
  collective: 'allReduce',
  inputs: range(worldSize).map(() => integers(length)),
});
const gather = (worldSize: number, length: number): Job => ({ ...reduce(worldSize, length), collective: 'allGather' });

function expectJobs(jobs: readonly Job[], results: readonly Float32Array[][], when = ''): void {
  jobs.forEach(({ collective, inputs, root = 0 }, i) => {
    const expected = { allReduce: sumOf, allGather: concatenated, broadcast: () => inputs[root] }[collective](inputs);
    const which = jobs.length > 1 ? `, collective ${i + 1} of ${jobs.length}` : '';
    results.forEach((ofRank, rank) => {
      const what = `${collective} of ${inputs[0].length} numbers on ${inputs.length} ranks: what rank ${rank} has after it`;
      expectNumbers(ofRank[i], expected, `${what}${which}${when}`);
    });
  });
}

/** Floats of one slot; see SLOT in local-group.ts. */
const SLOT = 1 << 16;

describe('6.1 Collectives in shared memory', () => {
  test('allReduce gives every rank the sum of all', async () => {
    for (const worldSize of [1, 2, 4]) {
      const jobs = [1, 3, 0, 1000].map((length) => reduce(worldSize, length));
      expectJobs(jobs, await onThreads(jobs));
    }
  });

  test('to the last bit the same on every rank', async () => {
    // Numbers whose sum depends on the order, as most do.
    const inputs = range(3).map(() => randoms(2000).map((x) => x * 10 ** (6 * uniform())));
    const results = await onThreads([{ collective: 'allReduce', inputs }]);
    for (const rank of [1, 2]) {
      const what = `allReduce: sums of rank ${rank}, which must add in the order that rank 0 adds in: expected are rank 0's`;
      expectNumbers(results[rank][0], results[0][0], what);
    }
    expectNumbers(results[0][0], sumOf(inputs), 'allReduce: sums of rank 0', 1e-3);
  });

  test('tensors of one slot, and of more', async () => {
    const jobs = [SLOT, SLOT + 1, 2 * SLOT + 7].map((length) => reduce(2, length));
    expectJobs(jobs, await onThreads(jobs));
  });

  test('allGather gives every rank what all have, in their order', async () => {
    const jobs = [gather(3, 1), gather(3, 5), gather(3, SLOT), gather(3, SLOT + 2)];
    expectJobs(jobs, await onThreads(jobs));
  });

  test('broadcast, which is given, stands on the same exchange', async () => {
    const jobs = range(3).map((root): Job => ({ ...reduce(3, 10), collective: 'broadcast', root }));
    expectJobs(jobs, await onThreads(jobs));
  });

  test('no rank reads too early, or overwrites what a slow one still reads', async () => {
    for (const dawdler of range(3)) {
      const jobs = [reduce(3, 2), reduce(3, 2), gather(3, 4), reduce(3, SLOT + 3)];
      expectJobs(jobs, await onThreads(jobs, dawdler), `, with rank ${dawdler} slow`);
    }
  });
});

describe('6.2 Column-parallel layers', () => {
  /** Runs a layer of each rank on the same input, and compares with the outputs that are the rank's own. */
  function expectOutputs(
    worldSize: number,
    inputs: number,
    checkpoint: Checkpoint,
    build: (ops: Ops) => MergedColumnParallelLinear | QKVParallelLinear,
    ownRows: (rank: number) => { name: string; rows: number[] }[],
  ): void {
    const x = randoms(2 * inputs);
    for (const rank of range(worldSize)) {
      const on = `on rank ${rank} of ${worldSize}`;
      const ops = opsFor(placeOnly(rank, worldSize));
      const layer = build(ops);
      const own = ownRows(rank);
      const rows = own.reduce((sum, { rows }) => sum + rows.length, 0);
      expect(layer.weight.shape, `shape of the rank's weight, ${on}`).toEqual([rows, inputs]);
      load(ops.backend, layer.parameters(), checkpoint, on);
      const y = ops.scope(() => valuesOf(layer.forward(tensorOn(ops.backend, [2, inputs], x))));
      let column = 0;
      for (const { name, rows: kept } of own) {
        const bias = checkpoint[`${name}.bias`]?.values;
        const whole = product(x, checkpoint[`${name}.weight`].values, inputs, bias);
        for (const row of kept) {
          for (const t of [0, 1]) {
            const what = `token ${t}, output ${column} ${on}, which is output ${row} of ${name}`;
            expectNumbers([y[t * rows + column]], [whole[t][row]], what, 1e-5);
          }
          column++;
        }
      }
    }
  }

  const share = (total: number, rank: number, worldSize: number) =>
    range(total / worldSize).map((i) => (rank * total) / worldSize + i);

  test('one projection: each rank has its share of the outputs', () => {
    for (const worldSize of [1, 2, 3]) {
      const checkpoint: Checkpoint = { 'o.weight': made(6, 5) };
      expectOutputs(
        worldSize,
        5,
        checkpoint,
        (ops) => new MergedColumnParallelLinear(ops, 5, [{ name: 'o', outputs: 6 }], { dtype: 'float32' }),
        (rank) => [{ name: 'o', rows: share(6, rank, worldSize) }],
      );
    }
  });

  test('several: a share of each, one behind the other', () => {
    const projections = [
      { name: 'a', outputs: 4 },
      { name: 'b', outputs: 8 },
      { name: 'c', outputs: 4 },
    ];
    for (const worldSize of [1, 2, 4]) {
      const checkpoint: Checkpoint = { 'a.weight': made(4, 3), 'b.weight': made(8, 3), 'c.weight': made(4, 3) };
      expectOutputs(
        worldSize,
        3,
        checkpoint,
        (ops) => new MergedColumnParallelLinear(ops, 3, projections, { dtype: 'float32' }),
        (rank) => projections.map(({ name, outputs }) => ({ name, rows: share(outputs, rank, worldSize) })),
      );
    }
  });

  test('biases are shared like the rows they belong to', () => {
    const projections = ['a', 'b'].map((name) => ({ name, outputs: 4 }));
    const checkpoint: Checkpoint = {
      'a.weight': made(4, 3),
      'a.bias': made(4),
      'b.weight': made(4, 3),
      'b.bias': made(4),
    };
    for (const worldSize of [1, 2, 4]) {
      expectOutputs(
        worldSize,
        3,
        checkpoint,
        (ops) => new MergedColumnParallelLinear(ops, 3, projections, { dtype: 'float32', hasBias: true }),
        (rank) => projections.map(({ name, outputs }) => ({ name, rows: share(outputs, rank, worldSize) })),
      );
    }
  });

  test('gate and up: the two halves of a rank belong together', () => {
    const projections = ['gate', 'up'].map((name) => ({ name, outputs: 6 }));
    const checkpoint: Checkpoint = { 'gate.weight': made(6, 4), 'up.weight': made(6, 4) };
    const x = randoms(4);
    const [[gate], [up]] = projections.map(({ name }) => product(x, checkpoint[`${name}.weight`].values, 4));
    const expected = gate.map((z, i) => (z / (1 + Math.exp(-z))) * up[i]);
    for (const worldSize of [1, 2, 3]) {
      for (const rank of range(worldSize)) {
        const on = `on rank ${rank} of ${worldSize}`;
        const ops = opsFor(placeOnly(rank, worldSize));
        const layer = new MergedColumnParallelLinear(ops, 4, projections, { dtype: 'float32' });
        load(ops.backend, layer.parameters(), checkpoint, on);
        const input = tensorOn(ops.backend, [1, 4], x);
        const y = ops.scope(() => valuesOf(layer.forward(input, { siluAndMul: true })));
        const own = share(6, rank, worldSize).map((i) => expected[i]);
        expectNumbers(y, own, `silu(gate) · up ${on}`, 1e-5);
      }
    }
  });

  const headRows = (heads: number[], headDim: number) =>
    heads.flatMap((h) => range(headDim).map((i) => h * headDim + i));

  /** The key/value heads that a rank's query heads read: query head h reads head ⌊h / (Hq / Hkv)⌋. */
  const keyHeads = (queries: number[], numHeads: number, numKvHeads: number) => [
    ...new Set(queries.map((h) => Math.floor(h / (numHeads / numKvHeads)))),
  ];

  function expectHeads(numAttentionHeads: number, numKeyValueHeads: number, worldSize: number, hasBias = false): void {
    const [inputs, headDim] = [3, 2];
    const heads = { numAttentionHeads, numKeyValueHeads, headDim };
    const checkpoint: Checkpoint = {};
    for (const letter of ['q', 'k', 'v']) {
      const outputs = (letter === 'q' ? numAttentionHeads : numKeyValueHeads) * headDim;
      checkpoint[`attn.${letter}_proj.weight`] = made(outputs, inputs);
      if (hasBias) checkpoint[`attn.${letter}_proj.bias`] = made(outputs);
    }
    expectOutputs(
      worldSize,
      inputs,
      checkpoint,
      (ops) => {
        const layer = new QKVParallelLinear(ops, inputs, 'attn', heads, { dtype: 'float32', hasBias });
        const { rank } = ops.group;
        const queries = share(numAttentionHeads, rank, worldSize);
        const on = `on rank ${rank} of ${worldSize}, of ${numAttentionHeads}/${numKeyValueHeads} heads`;
        expect(layer.numHeads, `query heads ${on}`).toBe(queries.length);
        const keys = keyHeads(queries, numAttentionHeads, numKeyValueHeads);
        expect(layer.numKvHeads, `key/value heads ${on}`).toBe(keys.length);
        return layer;
      },
      (rank) => {
        const queries = share(numAttentionHeads, rank, worldSize);
        const keys = headRows(keyHeads(queries, numAttentionHeads, numKeyValueHeads), headDim);
        return [
          { name: 'attn.q_proj', rows: headRows(queries, headDim) },
          { name: 'attn.k_proj', rows: keys },
          { name: 'attn.v_proj', rows: keys },
        ];
      },
    );
  }

  test('q, k and v: whole heads, each rank its own', () => {
    expectHeads(4, 4, 1);
    expectHeads(4, 2, 2);
    expectHeads(6, 3, 3);
    expectHeads(8, 4, 2);
  });

  test('fewer key/value heads than ranks: neighbours keep a copy of the one they read', () => {
    expectHeads(4, 1, 2);
    expectHeads(8, 2, 4);
    expectHeads(8, 2, 8);
    expectHeads(6, 3, 6);
  });

  test('q, k and v with biases', () => {
    expectHeads(4, 2, 2, true);
    expectHeads(4, 2, 4, true);
  });
});

// ---- Ranks of one thread, for tasks 6.3 and 6.4 ----

/** Ends a rank's program at a collective whose result is not known yet. */
class NotYet extends Error {}

interface Asked {
  readonly collective: string;
  readonly values: Float32Array;
}

/**
 * Runs the same program as every rank of a group, without threads. At a collective a rank stops; when all have stopped there, its result
 * is known, and they begin again from the start and run through it. So programs must do the same at each run.
 * @returns what each gave, and how often they talked.
 */
function onRanks<T>(worldSize: number, program: (ops: Ops, on: string) => T): { results: T[]; collectives: number } {
  const known: Asked[][] = [];
  for (;;) {
    const asked: (Asked | undefined)[] = [];
    const results = range(worldSize).map((rank): T | undefined => {
      let count = 0;
      const meet = (collective: string, x: Tensor, use: (all: Float32Array[]) => void) => {
        const past = known[count++];
        if (past) return use(past.map(({ values }) => values));
        asked[rank] = { collective, values: valuesOf(x) as Float32Array };
        throw new NotYet();
      };
      const put = (x: Tensor, values: ArrayLike<number>) => (x.storage.array as Float32Array).set(values, x.offset);
      const group: ProcessGroup = {
        ...ALONE,
        rank,
        worldSize,
        allReduce: (x) => meet('allReduce', x, (all) => put(x, sumOf(all))),
        allGather: (out, x) => meet('allGather', x, (all) => put(out, concatenated(all))),
        broadcast: (x, root) => meet('broadcast', x, (all) => put(x, all[root])),
      };
      try {
        return program(opsFor(group), `rank ${rank} of ${worldSize}`);
      } catch (error) {
        if (error instanceof NotYet) return undefined;
        throw error;
      }
    });
    if (asked.length === 0) return { results: results as T[], collectives: known.length };
    const calls = range(worldSize).map((rank) =>
      asked[rank] ? `${asked[rank].collective} of ${asked[rank].values.length}` : 'none',
    );
    expect(
      calls,
      `what the ranks call as collective ${known.length + 1}: where they differ, they would wait for ever`,
    ).toEqual(calls.map(() => calls[0]));
    known.push(asked as Asked[]);
    if (known.length > 50) expect.fail('The ranks talk and talk: more than 50 collectives in one call.');
  }
}

/** A group that may not be asked for anything yet: see {@link expectRecordable}. */
function silent(worldSize: number): ProcessGroup {
  const refuse = (name: string) => () =>
    expect.fail(
      `group.${name} was called while the step's memory is measured, when no operation may run. Use \`this.ops\`, which ` +
        'calls it when the step runs, and whenever a recording of it is replayed.',
    );
  return { ...ALONE, worldSize, allReduce: refuse('allReduce'), allGather: refuse('allGather') };
}

/** Collectives are operations like all others: nothing may happen while a step is only measured, or recorded. */
function expectRecordable(step: (ops: Ops) => () => void): void {
  const ops = new Ops(new ReferenceBackend(), 'float32', silent(2));
  ops.reserveFor(step(ops));
  expect(ops.arenaBytes, 'bytes that measuring the step counted').toBeGreaterThanOrEqual(0);
}

describe('6.3 The row-parallel layer', () => {
  const [tokens, inputs, outputs] = [3, 12, 5];

  /** `residual` after `addTo` on each rank, against residual + x · Wᵀ + b. */
  function expectSum(worldSize: number, given: { residual: Float32Array; bias?: Float32Array }, what: string): number {
    const x = randoms(tokens * inputs);
    const weight = made(outputs, inputs);
    const { residual, bias } = given;
    const checkpoint: Checkpoint = {
      'o.weight': weight,
      ...(bias && { 'o.bias': { shape: [outputs], values: bias } }),
    };
    const expected = product(x, weight.values, inputs, bias).flat();
    const { results, collectives } = onRanks(worldSize, (ops, on) => {
      const options = { dtype: 'float32', hasBias: bias !== undefined } as const;
      const layer = new RowParallelLinear(ops, inputs, { name: 'o', outputs }, options);
      load(ops.backend, layer.parameters(), checkpoint, `on ${on}`);
      const width = inputs / worldSize;
      const own = range(tokens * width).map((i) => {
        return x[Math.floor(i / width) * inputs + ops.group.rank * width + (i % width)];
      });
      const stream = tensorOn(ops.backend, [tokens, outputs], residual);
      ops.scope(() => layer.addTo(stream, tensorOn(ops.backend, [tokens, width], Float32Array.from(own))));
      return valuesOf(stream);
    });
    results.forEach((values, rank) =>
      expectNumbers(
        values,
        expected.map((y, i) => y + residual[i]),
        `${what}: the residual of rank ${rank} of ${worldSize} after addTo`,
        1e-5,
      ),
    );
    return collectives;
  }

  const zeros = new Float32Array(tokens * outputs);

  test('the product over all inputs, on every rank', () => {
    for (const worldSize of [1, 2, 3, 4]) expectSum(worldSize, { residual: zeros }, 'residual 0, no bias');
  });

  test('the residual once', () => {
    const residual = randoms(tokens * outputs).map((x) => 100 * x);
    for (const worldSize of [1, 2, 4]) expectSum(worldSize, { residual }, 'no bias');
  });

  test('the bias once', () => {
    const bias = randoms(outputs).map((x) => 100 * x);
    for (const worldSize of [1, 2, 4]) expectSum(worldSize, { residual: zeros, bias }, 'residual 0, with a bias');
  });

  test('both, with one all-reduce', () => {
    const residual = randoms(tokens * outputs);
    const given = () => ({ residual, bias: randoms(outputs) });
    expect(expectSum(1, given(), 'alone'), 'collectives of a rank alone').toBe(0);
    expect(expectSum(2, given(), 'two ranks'), 'collectives of two ranks in one addTo').toBe(1);
    expect(expectSum(6, given(), 'six ranks'), 'collectives of six ranks in one addTo').toBe(1);
  });

  test('the all-reduce can be recorded', () => {
    expectRecordable((ops) => {
      const layer = new RowParallelLinear(ops, 4, { name: 'o', outputs: 3 }, { dtype: 'float32' });
      const [residual, x] = [ops.backend.allocate([1, 3], 'float32'), ops.backend.allocate([1, 2], 'float32')];
      return () => layer.addTo(residual, x);
    });
  });
});

describe('6.4 A vocabulary in parts', () => {
  const hidden = 4;

  function expectRows(vocabSize: number, worldSize: number): void {
    const table = made(vocabSize, hidden);
    const ids = Int32Array.from([...range(vocabSize), vocabSize - 1, 0]);
    const expected = [...ids].flatMap((id) => [...table.values.subarray(id * hidden, (id + 1) * hidden)]);
    const { results } = onRanks(worldSize, (ops, on) => {
      const layer = new VocabParallelEmbedding(ops, 'embed', vocabSize, hidden, 'float32');
      load(ops.backend, layer.parameters(), { 'embed.weight': table }, `on ${on}`);
      const rows = ops.scope(() => {
        const out = layer.forward(tensorOn(ops.backend, [ids.length], ids));
        expect(out.shape, `shape of the embedding of ${ids.length} tokens`).toEqual([ids.length, hidden]);
        return valuesOf(out);
      });
      return rows;
    });
    results.forEach((rows, rank) =>
      expectNumbers(rows, expected, `embeddings of tokens 0 … ${vocabSize - 1} on rank ${rank} of ${worldSize}`),
    );
  }

  test('every token finds its row, on every rank, to the last bit', () => {
    for (const worldSize of [1, 2, 4]) expectRows(12, worldSize);
  });

  test('also where the last shard is short, or empty', () => {
    expectRows(10, 3); // 4, 4, 2
    expectRows(10, 4); // 3, 3, 3, 1
    expectRows(10, 6); // 2, 2, 2, 2, 2, 0
  });

  test('a rank alone refuses an id that is no token', () => {
    const ops = opsFor(ALONE);
    const layer = new VocabParallelEmbedding(ops, 'embed', 5, hidden, 'float32');
    let refused = false;
    try {
      ops.scope(() => layer.forward(tensorOn(ops.backend, [2], Int32Array.of(1, 5))));
    } catch (error) {
      if ((error as Error).name === 'TodoError') throw error;
      refused = true;
    }
    expect(refused, 'whether id 5 of a vocabulary of 5, on one rank, is an error (and not a row of zeros)').toBe(true);
  });

  function expectLogits(vocabSize: number, worldSize: number, tied: boolean): void {
    const table = made(vocabSize, hidden);
    table.values.forEach((x, i) => (table.values[i] = -Math.abs(x))); // all logits negative: a padded one would win
    const x = randoms(3 * hidden).map(Math.abs);
    const expected = product(x, table.values, hidden);
    const { results } = onRanks(worldSize, (ops, on) => {
      const embedding = new VocabParallelEmbedding(ops, 'embed', vocabSize, hidden, 'float32');
      const head = new ParallelLMHead(ops, 'lm_head', vocabSize, hidden, 'float32', tied ? embedding.weight : null);
      const [loaded, name] = tied ? [embedding, 'embed.weight'] : [head, 'lm_head.weight'];
      load(ops.backend, loaded.parameters(), { [name]: table }, `on ${on}`);
      return ops.scope(() => {
        const logits = head.forward(tensorOn(ops.backend, [3, hidden], x));
        const what = `of the logits of 3 rows over ${vocabSize} tokens, on ${on}`;
        expect(logits.shape, `shape ${what}`).toEqual([3, vocabSize]);
        expect(logits.dtype, `dtype ${what}`).toBe('float32');
        return valuesOf(logits);
      });
    });
    results.forEach((logits, rank) => {
      for (const b of range(3)) {
        const row = logits.subarray(b * vocabSize, (b + 1) * vocabSize);
        expectNumbers(row, expected[b], `logits of row ${b} on rank ${rank} of ${worldSize}`, 1e-5);
      }
    });
  }

  test('the head scores every token, in order, for every row', () => {
    for (const worldSize of [1, 2, 4]) expectLogits(12, worldSize, false);
    expectLogits(12, 2, true);
  });

  test('rows that fill up a shard are no tokens', () => {
    expectLogits(10, 3, false);
    expectLogits(10, 4, true);
    expectLogits(10, 6, false);
  });

  test('their collectives can be recorded', () => {
    expectRecordable((ops) => {
      const embedding = new VocabParallelEmbedding(ops, 'embed', 5, hidden, 'float32');
      const head = new ParallelLMHead(ops, 'lm_head', 5, hidden, 'float32', embedding.weight);
      const ids = ops.backend.allocate([2], 'int32');
      return () => head.forward(embedding.forward(ids));
    });
  });

  test('logits are float32 where activations are not', () => {
    const backend = new ReferenceBackend();
    backend.activationDType = () => 'bfloat16' as never;
    const ops = new Ops(backend, 'bfloat16', ALONE);
    const head = new ParallelLMHead(ops, 'lm_head', 5, hidden, 'bfloat16', null);
    ops.reserveFor(() => ops.empty([100]));
    const logits = ops.scope(() => head.forward(tensorOn(backend, [1, hidden], randoms(hidden))));
    expect(logits.dtype, 'dtype of the logits, of bfloat16 activations').toBe('float32');
  });
});

describe('6.5 Recording', () => {
  /** A backend as far as a recording sees it; with graphs, when asked. */
  function device(hasGraphs: boolean) {
    const log: string[] = [];
    const captureGraph = (run: () => void): DeviceGraph => {
      log.push('capture');
      run();
      return { launch: () => log.push('launch'), free: () => log.push('free') };
    };
    const backend = (hasGraphs ? { captureGraph } : {}) as unknown as Backend;
    return { backend, log };
  }

  /** A recording of two calls over two temporaries. Everything that happens is logged, with the temporaries' state. */
  function recorded(on: { backend: Backend; log: string[] }, failing?: string) {
    const storages: Storage[] = [{ alive: false }, { alive: false }];
    const alive = () => storages.map((storage) => (storage.alive ? 'alive' : 'dead')).join(' ');
    const note = (what: string) => {
      on.log.push(`${what}: ${alive()}`);
      if (what === failing) throw new Error(`${what} failed`);
    };
    const call = (name: string) => (backend: Backend) => {
      expect(backend, 'the backend that a recorded call is given').toBe(on.backend);
      note(name);
    };
    const result = { tokens: 'of this step' };
    const replays = { count: 0 };
    const calls = [call('first'), call('second')];
    const recording = new Recording(calls, storages, result, () => replays.count++);
    return { ...on, recording, storages, alive, note, result, replays };
  }

  test('making one calls nothing; a replay makes all calls, in order, each time', () => {
    const { recording, backend, log } = recorded(device(false));
    expect(log, 'calls made by new Recording').toEqual([]);
    recording.replay(backend, () => {});
    const once = log.map((entry) => entry.split(':')[0]);
    expect(once, 'calls of one replay').toEqual(['first', 'second']);
    recording.replay(backend, () => {});
    expect(log.length, 'calls of two replays').toBe(4);
  });

  test('temporaries are alive during the calls and in `use`, and at no other time', () => {
    const { recording, backend, log, alive, note } = recorded(device(false));
    expect(alive(), 'the temporaries before the first replay').toBe('dead dead');
    for (const time of ['first', 'second']) {
      log.length = 0;
      recording.replay(backend, () => note('use'));
      const expected = ['first', 'second', 'use'].map((what) => `${what}: alive alive`);
      expect(log, `what the ${time} replay did, and how its temporaries were then`).toEqual(expected);
      expect(alive(), `the temporaries after the ${time} replay`).toBe('dead dead');
    }
  });

  test('`use` gets the captured result, and what it returns is returned', () => {
    const { recording, backend, result } = recorded(device(false));
    let given: unknown;
    const returned = recording.replay(backend, (captured) => {
      given = captured;
      return 42;
    });
    expect(given, 'what `use` was given').toBe(result);
    expect(returned, 'what replay returned, where `use` returned 42').toBe(42);
  });

  test('`onReplay` hears of each replay once', () => {
    for (const hasGraphs of [false, true]) {
      const { recording, backend, replays } = recorded(device(hasGraphs));
      recording.captureOn(backend);
      const where = hasGraphs ? 'on a device with graphs' : 'on a device without';
      expect(replays.count, `calls of onReplay by captureOn, ${where}`).toBe(0);
      recording.replay(backend, () => {});
      recording.replay(backend, () => {});
      expect(replays.count, `calls of onReplay by two replays, ${where}`).toBe(2);
    }
  });

  test('temporaries are dead again when something fails', () => {
    for (const what of ['first', 'use']) {
      const { recording, backend, alive, note } = recorded(device(false), what);
      let message = 'no error';
      try {
        recording.replay(backend, () => note('use'));
      } catch (error) {
        if ((error as Error).name === 'TodoError') throw error;
        message = (error as Error).message;
      }
      expect(message, `the error of a replay whose ${what} fails`).toBe(`${what} failed`);
      expect(alive(), `the temporaries after a replay whose ${what} failed`).toBe('dead dead');
    }
  });

  test('where the device has graphs, the calls become one, and replays launch it', () => {
    const { recording, backend, log, alive, note } = recorded(device(true));
    recording.captureOn(backend);
    const captured = ['capture', 'first: alive alive', 'second: alive alive'];
    expect(log, 'what captureOn did, and how the temporaries were then').toEqual(captured);
    expect(alive(), 'the temporaries after captureOn').toBe('dead dead');
    for (const time of ['first', 'second']) {
      log.length = 0;
      recording.replay(backend, () => note('use'));
      const expected = ['launch', 'use: alive alive'];
      expect(log, `what the ${time} replay did: one launch, and not the calls`).toEqual(expected);
    }
    recording.free();
    expect(log.at(-1), 'what `free`, which is given, did').toBe('free');
  });

  test('where it has none, captureOn does nothing', () => {
    const { recording, backend, log } = recorded(device(false));
    recording.captureOn(backend);
    expect(log, 'calls made by captureOn').toEqual([]);
    recording.replay(backend, () => {});
    expect(log.length, 'calls of a replay afterwards').toBe(2);
  });

  test('a recorded layer computes with what its input holds at each replay', () => {
    const ops = opsFor(ALONE);
    const { backend } = ops;
    const weight = tensorOn(backend, [3, 2], Float32Array.of(1, 0, 0, 1, 1, 1));
    const input = tensorOn(backend, [1, 2], Float32Array.of(1, 1));
    const recording = ops.record(() => ops.linear(ops.linear(input, weight), tensorOn(backend, [1, 3], integers(3))));
    const recordedSum = ops.record(() => ops.linear(input, weight));
    for (const [a, b] of [
      [2, 5],
      [-1, 3],
    ]) {
      backend.write(input, Float32Array.of(a, b));
      recording.replay(backend, () => {}); // another step in the same arena
      const got = recordedSum.replay(backend, (out) => [...valuesOf(out)]);
      expect(got, `x · Wᵀ for x = [${a}, ${b}] and W = [[1, 0], [0, 1], [1, 1]]`).toEqual([a, b, a + b]);
    }
    let kept: Tensor | undefined;
    recordedSum.replay(backend, (out) => {
      kept = out;
    });
    expect(() => kept?.assertAlive(), 'using the result after the replay').toThrow('memory was given back');
  });
});

describe('6.6 Decode graphs', () => {
  test('graphBatchSizes: 1, 2, 4, 8, every 16, and the largest', () => {
    const cases: [most: number, sizes: number[]][] = [
      [50, [1, 2, 4, 8, 16, 32, 48, 50]],
      [64, [1, 2, 4, 8, 16, 32, 48, 64]],
      [17, [1, 2, 4, 8, 16, 17]],
      [16, [1, 2, 4, 8, 16]],
      [9, [1, 2, 4, 8, 9]],
      [8, [1, 2, 4, 8]],
      [3, [1, 2, 3]],
      [1, [1]],
    ];
    for (const [most, sizes] of cases) expect(graphBatchSizes(most), `graphBatchSizes(${most})`).toEqual(sizes);
    expect(graphBatchSizes(512).length, 'sizes up to 512').toBe(36);
  });

  const VOCAB = 31;
  const LIMITS = { maxNumSeqs: 20, maxModelLen: 32, blockSize: 4 };
  const SLOTS = 40;
  const EMPTY = -9;

  /** What the model was given when a step ran. */
  interface Seen {
    readonly capturing: boolean;
    readonly ids: number[];
    readonly positions: number[];
    readonly slots: number[];
    readonly lengths: number[];
    readonly tables: number[];
    readonly maxContextLen: number;
  }

  /**
   * Operations whose recordings don't stand on your task 6.5: a replay takes the step again, and capturing takes it once, as it does
   * on a GPU.
   */
  class ProbeOps extends Ops {
    captures = 0;
    isCapturing = false;

    /** Like a kernel: does its work when the step runs. */
    kernel(work: () => void): void {
      this.run(work);
    }

    override record<T>(step: () => T): Recording<T> {
      this.captures++;
      this.isCapturing = true;
      this.scope(step);
      this.isCapturing = false;
      const replay = <R>(_: Backend, use: (result: T) => R) => this.scope(() => use(step()));
      return { replay, free: () => {} } as unknown as Recording<T>;
    }
  }

  /** The token drawn after `token` at `position`: what the made-up model computes. */
  const nextToken = (token: number, position: number) => (7 * token + 3 * position + 1) % VOCAB;

  function setup({ capture = true, pad = false, hasGraphs = false } = {}) {
    const backend = new ReferenceBackend();
    if (hasGraphs) Object.assign(backend, { captureGraph: () => ({ launch: () => {}, free: () => {} }) });
    const ops = new ProbeOps(backend, 'float32');
    ops.reserveFor(() => ops.empty([1 << 12]));
    const seen: Seen[] = [];
    const model = {
      forward(inputIds: Tensor, positions: Tensor, context: Context): Tensor {
        const hidden = ops.empty([inputIds.shape[0], 2]);
        ops.kernel(() => {
          if (context.isPrefill) expect.fail('the model was told that this is a prefill');
          const [ids, places] = [[...valuesOf(inputIds)], [...valuesOf(positions)]];
          const [slots, lengths] = [[...valuesOf(context.slotMapping)], [...valuesOf(context.contextLens)]];
          const tables = [...valuesOf(context.blockTables)];
          const { maxContextLen } = context;
          seen.push({ capturing: ops.isCapturing, ids, positions: places, slots, lengths, tables, maxContextLen });
          (hidden.storage.array as Float32Array).set(ids.flatMap((id, b) => [id, places[b]]));
        });
        return hidden;
      },
      computeLogits(hidden: Tensor): Tensor {
        const rows = hidden.shape[0];
        const logits = ops.empty([rows, VOCAB]);
        ops.kernel(() => {
          const scores = logits.storage.array as Float32Array;
          const states = valuesOf(hidden);
          scores.fill(0, 0, rows * VOCAB);
          for (const b of range(rows)) scores[b * VOCAB + nextToken(states[2 * b], states[2 * b + 1])] = 1;
        });
        return logits;
      },
    };
    const lastTokens = tensorOn(backend, [SLOTS], new Int32Array(SLOTS).fill(EMPTY));
    const graph = new DecodeGraph(ops, model as unknown as CausalLM, new Sampler(ops, 5), lastTokens, LIMITS, {
      capture,
      pad,
    });
    return { backend, ops, seen, graph, lastTokens };
  }

  const MODES = [
    ['padded', { pad: true }],
    ['not padded', { pad: false }],
    ['on a device with graphs', { hasGraphs: true }],
  ] as const;

  /** Greedy sequences with blocks and token slots of their own; slot 0 and block 0 belong to nobody here. */
  function sequences(count: number): StepSequence[] {
    const samplingParams = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: undefined, logprobs: undefined };
    return range(count).map((b) => {
      const numTokens = 1 + Math.floor(LIMITS.maxModelLen * uniform());
      const blockTable = range(Math.ceil(numTokens / LIMITS.blockSize)).map((i) => 1 + 8 * b + i);
      const lengths = { numTokens, numCachedTokens: numTokens - 1, numScheduledTokens: 1, numOutputTokens: 1 };
      return { ...lengths, tokenIds: [], blockTable, tokenSlot: SLOTS - 1 - b, requestIndex: b, samplingParams };
    });
  }

  /** One step of these sequences; compares every token with the model's rule, and the last tokens with what they must be. */
  function expectStep(given: ReturnType<typeof setup>, seqs: readonly StepSequence[], what: string): Seen {
    const { graph, lastTokens, seen, backend } = given;
    const before = new Int32Array(SLOTS).fill(EMPTY);
    for (const { tokenSlot } of seqs) before[tokenSlot] = Math.floor(VOCAB * uniform());
    backend.write(lastTokens, before);
    const after = before.slice();
    for (const { tokenSlot, numTokens } of seqs) after[tokenSlot] = nextToken(before[tokenSlot], numTokens - 1);
    const steps = seen.filter(({ capturing }) => !capturing).length;
    const tokens = graph.run(seqs, (output: DecodeOutput) => [...valuesOf(output.tokens)]);
    const runs = seen.filter(({ capturing }) => !capturing);
    expect(runs.length - steps, `${what}: how often the step was taken for one \`run\``).toBe(1);
    const expected = seqs.map(({ tokenSlot }) => after[tokenSlot]);
    expect(tokens.slice(0, seqs.length), `${what}: the tokens drawn for ${seqs.length} sequences ${REPEAT}`).toEqual(
      expected,
    );
    const inUse = (slots: Int32Array) =>
      [...slots].map((token, i) => `slot ${i}: ${token}`).filter((_, i) => slots[i] !== EMPTY);
    const now = inUse(valuesOf(lastTokens) as Int32Array);
    expect(now, `${what}: last tokens by token slot; in other slots nothing may be written`).toEqual(inUse(after));
    return runs[runs.length - 1];
  }

  test('every sequence gets its own token, whatever the size of the batch', () => {
    for (const [name, mode] of MODES) {
      const given = setup(mode);
      for (const count of [1, 3, 4, 5, 8, 9, 16, 17, 20]) {
        expectStep(given, sequences(count), `${name}, ${count} sequences`);
      }
    }
  });

  const rowsOf = (seen: Seen) => seen.ids.length;

  test('a padded batch has the next size that holds it', () => {
    const cases = [
      [1, 1],
      [2, 2],
      [3, 4],
      [8, 8],
      [9, 16],
      [16, 16],
      [17, 20],
      [20, 20],
    ];
    for (const [name, mode] of MODES.filter(([name]) => name !== 'not padded')) {
      const given = setup(mode);
      for (const [count, rows] of cases) {
        const step = expectStep(given, sequences(count), `${name}, ${count} sequences`);
        expect(rowsOf(step), `${name}: rows of the step for ${count} sequences`).toBe(rows);
      }
    }
  });

  test('where nothing is padded, a step has the rows it needs', () => {
    const given = setup({ pad: false });
    for (const count of [3, 9, 17]) {
      const step = expectStep(given, sequences(count), `${count} sequences`);
      expect(rowsOf(step), `rows of the step for ${count} sequences`).toBe(count);
    }
  });

  test('padding sees no keys, and writes none', () => {
    const given = setup({ pad: true });
    expectStep(given, sequences(16), '16 sequences');
    const seqs = sequences(11);
    const { slots, lengths, tables } = expectStep(given, seqs, '11 sequences, after 16 of the same size');
    const padding = new Array(5);
    const expected = seqs.map(({ numTokens, blockTable }) => {
      const position = numTokens - 1;
      return blockTable[Math.floor(position / LIMITS.blockSize)] * LIMITS.blockSize + (position % LIMITS.blockSize);
    });
    expect(slots, 'cache slots of 11 sequences and 5 rows of padding').toEqual([...expected, ...padding.fill(-1)]);
    const keys = seqs.map(({ numTokens }) => numTokens);
    expect(lengths, 'context lengths of 11 sequences and 5 rows of padding').toEqual([...keys, ...padding.fill(0)]);
    const width = tables.length / 16;
    expect(
      tables.slice(11 * width).filter((block) => block !== -1),
      'blocks in the rows of padding',
    ).toEqual([]);
  });

  test('a size is captured once, and then replayed with new values', () => {
    const given = setup({ pad: true });
    for (const count of [5, 8, 6, 3, 4, 7, 8]) expectStep(given, sequences(count), `${count} sequences`);
    expect(given.ops.captures, 'captures for batches of 5, 8, 6, 3, 4, 7 and 8: sizes 8 and 4').toBe(2);
  });

  test('what is captured holds for the longest context there can be', () => {
    const given = setup({ pad: true });
    for (const count of [2, 7]) {
      const short = sequences(count).map((seq) => ({ ...seq, numTokens: 2, blockTable: seq.blockTable.slice(0, 1) }));
      expectStep(given, short, `${count} sequences of 2 tokens`);
      const step = expectStep(given, sequences(count), `${count} longer sequences`);
      expect(step.maxContextLen, 'maxContextLen of a captured step, whatever the batch it was captured for').toBe(
        LIMITS.maxModelLen,
      );
    }
  });

  test('capturing may run the step, and leaves no trace', () => {
    for (const captured of ['before the first request', 'with the first request']) {
      const given = setup({ hasGraphs: true });
      if (captured.startsWith('before')) given.graph.captureAll();
      expectStep(given, sequences(20), `20 sequences, captured ${captured}`);
      expectStep(given, sequences(7), `7 sequences, captured ${captured}`);
      for (const { capturing, slots, lengths } of given.seen) {
        if (!capturing) continue;
        const what = `of the rows of a step when it is captured, ${captured}: padding`;
        expect(
          slots.filter((slot) => slot !== -1),
          `cache slots ${what}`,
        ).toEqual([]);
        expect(
          lengths.filter((length) => length !== 0),
          `context lengths ${what}`,
        ).toEqual([]);
      }
    }
  });

  test('captureAll, which is given, makes all sizes, the largest first', () => {
    const { graph, seen } = setup({ hasGraphs: true });
    graph.captureAll();
    expect(seen.map(rowsOf), 'rows of the captured steps').toEqual([20, 16, 8, 4, 2, 1]);
  });
});
