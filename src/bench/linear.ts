import { createCudaBackend } from '#nano/backends/cuda';
import { floorSeconds } from '#nano/bench/costs';
import { RandomPool } from '#nano/bench/inputs';
import type { BenchContext } from '#nano/bench/options';
import type { BenchRow } from '#nano/bench/report';
import { SHAPES, type ShapeName } from '#nano/bench/shapes';
import { rotated, timed } from '#nano/bench/timing';

const ROWS = [1, 2, 4, 8, 16, 64, 256, 2048];
const PLAIN = { bias: null, accumulate: false, siluAndMul: false };

interface Matrix {
  readonly name: string;
  readonly inputs: number;
  readonly outputs: number;
}

/** The matrices of one layer, and the LM head, whose product is kept in float32. */
function matricesOf(shape: ShapeName): Matrix[] {
  const { hidden_size: H, intermediate_size: I, head_dim: D, vocab_size, ...heads } = SHAPES[shape];
  const q = heads.num_attention_heads * D;
  return [
    { name: 'qkv', inputs: H, outputs: q + 2 * heads.num_key_value_heads * D },
    { name: 'o', inputs: q, outputs: H },
    { name: 'gate_up', inputs: H, outputs: 2 * I },
    { name: 'down', inputs: I, outputs: H },
    { name: 'lm_head', inputs: H, outputs: vocab_size },
  ];
}

/** Matrix products at a model's shapes by the number of rows (tokens), each way a GPU does them here. */
export async function linear({ shape, limits, log }: BenchContext): Promise<BenchRow[]> {
  const machine = limits();
  const matrices = matricesOf(shape);
  const rows: BenchRow[] = [];
  const best = new Map<string, number>();
  for (const batchInvariant of [false, true]) {
    const backend = createCudaBackend({ batchInvariant });
    const pool = new RandomPool(backend, 1 << 29);
    for (const matrix of matrices) {
      log(`${matrix.name}${batchInvariant ? ', batch-invariant' : ''} …`);
      for (const T of ROWS) {
        const us = 1e3 * (milliseconds(pool, matrix, T) ?? NaN);
        // The backend has one kernel for few rows and leaves more to the library; when it is batch-invariant, one for all.
        const column = batchInvariant ? 'own GEMM' : backend.fusesSiluAndMul(T) ? 'gemv' : 'cuBLASLt';
        rows.push(cell(matrix, T, column, us));
        best.set(matrix.name + T, Math.min(us, best.get(matrix.name + T) ?? Infinity));
      }
    }
    backend.close();
  }
  for (const matrix of matrices) {
    for (const T of ROWS) {
      const us = best.get(matrix.name + T) as number;
      const [bytes, operations] = costs(matrix, T);
      if (machine) rows.push(cell(matrix, T, 'bound', 1e6 * floorSeconds(bytes, operations, machine)));
      rows.push(cell(matrix, T, 'best: GB/s', bytes / us / 1e3, 'GB/s'));
      rows.push(cell(matrix, T, 'TFLOP/s', operations / us / 1e6, 'TFLOP/s'));
    }
  }
  return rows;
}

function milliseconds(pool: RandomPool, { inputs, outputs, name }: Matrix, T: number): number | null {
  const { backend } = pool;
  const out = backend.allocate([T, outputs], name === 'lm_head' ? 'float32' : 'bfloat16');
  return timed(backend, rotated(pool, [T, inputs], [outputs, inputs]), ([x, weight]) =>
    backend.linear(out, x, weight, PLAIN),
  );
}

/** Bytes read and written, and operations. */
function costs({ inputs, outputs, name }: Matrix, T: number): [number, number] {
  const outBytes = name === 'lm_head' ? 4 : 2;
  return [2 * inputs * (outputs + T) + outBytes * T * outputs, 2 * T * inputs * outputs];
}

function cell({ name, inputs, outputs }: Matrix, T: number, column: string, value: number, unit = 'µs'): BenchRow {
  return { table: `Linear ${name}, ${inputs} → ${outputs}, by rows: µs`, what: `${T}`, column, value, unit };
}
