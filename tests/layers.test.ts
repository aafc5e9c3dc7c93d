// Layers by themselves: a rank's part of a sum, and attention without a cache.
import { describe, expect, test } from 'vitest';
import { ReferenceBackend } from '#nano/backends/reference/index';
import { ALONE, type ProcessGroup } from '#nano/distributed/process-group';
import { Attention } from '#nano/layers/attention';
import { RMSNorm } from '#nano/layers/layernorm';
import { RowParallelLinear } from '#nano/layers/linear';
import { localShape } from '#nano/layers/parameter';
import { RotaryEmbedding } from '#nano/layers/rotary-embedding';
import { Ops } from '#nano/tensor/ops';
import type { Tensor } from '#nano/tensor/tensor';
import { put } from './helpers/random';

const [ROWS, INPUTS, OUTPUTS] = [2, 6, 3];
/** Small whole numbers: their sums are exact in any order. */
const whole = (count: number, salt: number) =>
  Float32Array.from({ length: count }, (_, i) => ((i * 7 + salt * 5) % 11) - 5);
const X = whole(ROWS * INPUTS, 1);
const WEIGHT = whole(OUTPUTS * INPUTS, 2);
const BIAS = whole(OUTPUTS, 3);
const RESIDUAL = whole(ROWS * OUTPUTS, 4);

const columnsOf = (matrix: Float32Array, width: number, first: number, count: number) =>
  matrix.filter((_, i) => i % width >= first && i % width < first + count);

describe.each([1, 2, 3])('a row-parallel layer on %i ranks', (worldSize) => {
  /** What this rank shows to the all-reduce, which an exchange between the ranks would add up. */
  async function partOf(rank: number, hasBias: boolean): Promise<Float32Array> {
    const backend = new ReferenceBackend();
    const shown: Tensor[] = [];
    const group: ProcessGroup = { ...ALONE, rank, worldSize, allReduce: (x) => void shown.push(x) };
    const ops = new Ops(backend, 'float32', group);
    const projection = { name: 'o_proj', outputs: OUTPUTS };
    const layer = new RowParallelLinear(ops, INPUTS, projection, { dtype: 'float32', hasBias });
    const count = INPUTS / worldSize;
    const first = rank * count;
    for (const parameter of layer.parameters()) {
      const { name, tensor, firstRow, columns } = parameter;
      const isBias = name.endsWith('.bias');
      expect([columns, localShape(parameter)]).toEqual(
        isBias ? [undefined, [OUTPUTS]] : [{ first, count }, [OUTPUTS, count]],
      );
      const values = isBias ? BIAS : columnsOf(WEIGHT, INPUTS, first, count);
      backend.loadRows(tensor, firstRow, new Uint8Array(values.buffer), 'float32');
    }
    const residual = put(backend, RESIDUAL, [ROWS, OUTPUTS]);
    layer.addTo(residual, put(backend, columnsOf(X, INPUTS, first, count), [ROWS, count]));
    expect(shown).toEqual(worldSize === 1 ? [] : [residual]);
    return (await backend.read(residual)) as Float32Array;
  }

  test.each([true, false])('adds residual and bias once, and every part of the sum (bias: %s)', async (hasBias) => {
    const parts = await Promise.all(Array.from({ length: worldSize }, (_, rank) => partOf(rank, hasBias)));
    const expected = RESIDUAL.map((value, i) => {
      const [row, output] = [Math.floor(i / OUTPUTS), i % OUTPUTS];
      let sum = value + (hasBias ? BIAS[output] : 0);
      for (let k = 0; k < INPUTS; k++) sum += X[row * INPUTS + k] * WEIGHT[output * INPUTS + k];
      return sum;
    });
    expect(expected.map((_, i) => parts.reduce((sum, part) => sum + part[i], 0))).toEqual(expected);
  });
});

test('attention that was given no cache says so', () => {
  const backend = new ReferenceBackend();
  const ops = new Ops(backend, 'float32');
  const attention = new Attention(ops, 8, 'flash');
  const [qNorm, kNorm] = ['q', 'k'].map((name) => new RMSNorm(ops, name, 8, 1e-6));
  const ints = put(backend, Int32Array.of(0), [1]);
  const heads = { qNorm, kNorm, rotary: new RotaryEmbedding(ops, 8, 4, 10000), positions: ints };
  const q = backend.allocate([1, 1, 8], 'float32');
  const context = {
    isPrefill: false,
    slotMapping: ints,
    blockTables: ints,
    contextLens: ints,
    maxContextLen: 1,
  } as const;
  expect(() => attention.forward(q, q, q, heads, context)).toThrow(
    'Attention has no KV cache yet: call bindCache first.',
  );
});
