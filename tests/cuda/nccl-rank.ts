// One rank of nccl.test.ts: a process with a GPU of its own that does what it is told.
import { type CudaBackend, createCudaBackend } from '#nano/backends/cuda';
import { NcclGroup } from '#nano/distributed/nccl-group';
import type { FloatDType } from '#nano/tensor/dtype';
import type { Tensor } from '#nano/tensor/tensor';

type Values = Float32Array | Int32Array;
/** Float32Array values travel as `dtype`. */
interface Exchange {
  values: Values;
  dtype: FloatDType;
}

let backend: CudaBackend;
let group: NcclGroup;
let graph: ReturnType<CudaBackend['captureGraph']> | undefined;

function put({ values, dtype }: Exchange): Tensor {
  const tensor = backend.allocate([values.length], values instanceof Int32Array ? 'int32' : dtype);
  backend.write(tensor, values);
  return tensor;
}

/** Rows of 64 numbers, through kernels before, between and behind collectives: to `[rows, worldSize · 32]`. */
function layer(rows: number) {
  const x = backend.allocate([rows, 64], 'bfloat16');
  const hidden = backend.allocate([rows, 64], 'bfloat16');
  const gain = backend.allocate([64], 'float32');
  backend.write(gain, new Float32Array(64).fill(1));
  const mine = backend.allocate([rows, 32], 'bfloat16');
  const all = backend.allocate([group.worldSize, rows, 32], 'bfloat16');
  const out = backend.allocate([rows, group.worldSize * 32], 'bfloat16');
  const run = () => {
    backend.rmsNorm(hidden, x, gain, 1e-6);
    group.allReduce(hidden);
    backend.siluAndMul(mine, hidden);
    group.allGather(all, mine);
    backend.concatColumns(out, all);
  };
  return { x, out, run };
}

const orders = {
  uniqueId: () => NcclGroup.uniqueId(),

  async connect(args: { uniqueId: Uint8Array; rank: number; worldSize: number; giveUpAfter?: number }) {
    backend = createCudaBackend({ device: args.rank });
    const signal = args.giveUpAfter === undefined ? undefined : AbortSignal.timeout(args.giveUpAfter);
    group = await NcclGroup.connect(backend, args.uniqueId, args.rank, args.worldSize, signal);
  },

  allReduce(args: Exchange) {
    const x = put(args);
    group.allReduce(x);
    return backend.read(x);
  },

  allGather(args: Exchange) {
    const x = put(args);
    const out = backend.allocate([group.worldSize, args.values.length], x.dtype);
    group.allGather(out, x);
    return backend.read(out);
  },

  broadcast(args: Exchange & { root: number }) {
    const x = put(args);
    group.broadcast(x, args.root);
    return backend.read(x);
  },

  barrier: () => group.barrier(),

  /** What each input gives, by a graph and without one. */
  async replay({ inputs }: { inputs: Float32Array[] }) {
    const { x, out, run } = layer(inputs[0].length / 64);
    graph = backend.captureGraph(run);
    const results: Values[][] = [];
    for (const input of inputs) {
      backend.write(x, input);
      graph.launch();
      const replayed = backend.read(out);
      backend.write(x, input);
      run();
      results.push(await Promise.all([replayed, backend.read(out)]));
    }
    return results;
  },

  /** Milliseconds a launch of the graph takes. */
  async graphTime({ launches }: { launches: number }) {
    const started = performance.now();
    for (let i = 0; i < launches; i++) graph?.launch();
    await backend.read(backend.allocate([1], 'int32'));
    return (performance.now() - started) / launches;
  },

  launch: () => graph?.launch(),
  abort: ({ message }: { message: string }) => group.abort(message),
  freeGraph: () => graph?.free(),

  /** Milliseconds each takes. */
  close({ groupFirst }: { groupFirst: boolean }) {
    const both = [() => group.close(), () => backend.close()];
    return (groupFirst ? both : both.reverse()).map((close) => {
      const started = performance.now();
      close();
      return performance.now() - started;
    });
  },
};

export type Orders = typeof orders;
export interface Order {
  number: number;
  name: keyof Orders;
  args: unknown;
}
export type Answer = { number: number; value: unknown } | { number: number; error: string };

process.on('message', async ({ number, name, args }: Order) => {
  try {
    const value = await (orders[name] as (args: unknown) => unknown)(args);
    process.send?.({ number, value });
  } catch (error) {
    process.send?.({ number, error: `${(error as Error).name}: ${(error as Error).message}` });
  }
});
process.on('disconnect', () => process.exit());
