import { localShape } from '#nano/layers/parameter';
import type { CausalLM } from '#nano/models/registry';
import { bfloat16Bits, type FloatDType } from '#nano/tensor/dtype';
import type { Backend } from '#nano/tensor/kernels';
import type { Checkpoint } from '#nano/utils/checkpoint';

/**
 * Streams every tensor the model asks for, or this rank's shard of it, from the checkpoint into the backend's memory, a few rows at a
 * time: the weights exist once, in their final place, and only a staging buffer beside them.
 *
 * @throws ModelError when a tensor is missing or has another shape than the config says.
 */
export async function loadWeights(
  model: CausalLM,
  checkpoint: Checkpoint,
  backend: Backend,
  onProgress?: (loaded: number, total: number) => void,
): Promise<void> {
  const parameters = model.parameters();
  for (const [i, { name, shape, tensor, firstRow, rows, columns }] of parameters.entries()) {
    const range = { firstRow: rows?.first, rows: rows?.count, columns };
    const target = firstRow - (rows?.first ?? 0);
    await checkpoint.streamRows(name, shape, range, (row: number, bytes: Uint8Array, dtype: FloatDType) =>
      backend.loadRows(tensor, target + row, bytes, dtype),
    );
    onProgress?.(i + 1, parameters.length);
  }
}

/**
 * Fills the model with random numbers of a trained model's scale (`loadFormat: 'dummy'`): enough to measure speed. Gains
 * are 1, weights uniform with variance 1/inputs. One block of numbers is drawn and reused from shifting offsets.
 */
export function loadDummyWeights(model: CausalLM, backend: Backend, seed: number): void {
  const noise = uniformBits(1 << 20, seed);
  const scaledFor = new Map<number, Uint16Array>();
  for (const parameter of model.parameters()) {
    const { tensor, firstRow } = parameter;
    const shape = localShape(parameter);
    if (shape.length === 1) {
      const ones = new Float32Array(shape[0]).fill(1);
      backend.loadRows(tensor, firstRow, new Uint8Array(ones.buffer), 'float32');
      continue;
    }
    const [rows, columns] = shape;
    const rowsPerChunk = Math.max(1, Math.floor(noise.length / 2 / columns));
    const scaled = scaledFor.get(columns) ?? scaleNoise(noise, Math.sqrt(3 / columns));
    scaledFor.set(columns, scaled);
    for (let row = 0; row < rows; row += rowsPerChunk) {
      const count = Math.min(rowsPerChunk, rows - row);
      const start = (row * 7919 * 64) % (scaled.length - count * columns);
      const chunk = scaled.subarray(start, start + count * columns);
      backend.loadRows(
        tensor,
        firstRow + row,
        new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength),
        'bfloat16',
      );
    }
  }
}

/** Uniform in [-1, 1), from a 32-bit xorshift. */
function uniformBits(count: number, seed: number): Float32Array {
  let state = (seed ^ 0x9e3779b9) | 1;
  return Float32Array.from({ length: count }, () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state / 2 ** 31;
  });
}

const scaleNoise = (noise: Float32Array, scale: number): Uint16Array =>
  Uint16Array.from(noise, (x) => bfloat16Bits(x * scale));
