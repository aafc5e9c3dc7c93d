// Exercise made from src/backends/reference/dense.ts by `npm run days`, which keeps what you write. [e970af512c4b9e06]
import { InvalidTensorError } from '#nano/errors';
import type { LinearArgs } from '#nano/tensor/kernels';
import type { Tensor } from '#nano/tensor/tensor';
import { TodoError } from '#nano/utils/todo';

/** A tensor's storage as a typed array; element (i, j) of a matrix is at `offset + i·strides[0] + j`. */
export function elements(tensor: Tensor): Float32Array | Int32Array {
  tensor.assertAlive();
  const { array } = tensor.storage;
  if (!array) throw new InvalidTensorError('A tensor of another backend was given to the reference backend.');
  return array;
}

export const floats = (tensor: Tensor): Float32Array => elements(tensor) as Float32Array;

/** A contiguous int32 vector or matrix, from its first element. */
export function ints(tensor: Tensor): Int32Array {
  return (elements(tensor) as Int32Array).subarray(tensor.offset, tensor.offset + tensor.numel);
}

/** Row `index` of a `[rows, …]` tensor whose rows are contiguous, as a view. */
export function row(tensor: Tensor, index: number): Float32Array {
  const length = tensor.numel / tensor.shape[0];
  const start = tensor.offset + index * tensor.strides[0];
  return floats(tensor).subarray(start, start + length);
}

function checkIndex(what: string, index: number, limit: number): void {
  if (index < 0 || index >= limit) {
    throw new InvalidTensorError(`${what} ${index} is out of range: it must be at least 0 and below ${limit}.`);
  }
}

export function embedding(out: Tensor, ids: Tensor, weight: Tensor, firstRow: number | null): void {
  const rows = weight.shape[0];
  ints(ids).forEach((id, t) => {
    if (firstRow === null) checkIndex('Token id', id, rows);
    const index = id - (firstRow ?? 0);
    if (index >= 0 && index < rows) row(out, t).set(row(weight, index));
    else row(out, t).fill(0); // another shard's
  });
}

export function gatherRows(out: Tensor, x: Tensor, rows: Tensor): void {
  ints(rows).forEach((source, r) => {
    checkIndex('Row', source, x.shape[0]);
    row(out, r).set(row(x, source));
  });
}

export function gatherTokens(out: Tensor, table: Tensor, slots: Tensor): void {
  const [tokens, known] = [ints(out), ints(table)];
  ints(slots).forEach((slot, b) => {
    if (slot !== -1) checkIndex('Token slot', slot, known.length);
    tokens[b] = slot === -1 ? 0 : known[slot];
  });
}

export function scatterTokens(table: Tensor, values: Tensor, slots: Tensor): void {
  const [known, tokens] = [ints(table), ints(values)];
  ints(slots).forEach((slot, b) => {
    if (slot === -1) return;
    checkIndex('Token slot', slot, known.length);
    known[slot] = tokens[b];
  });
}

export function concatColumns(out: Tensor, parts: Tensor): void {
  const [n, rows, width] = parts.shape;
  const [outRows, columns] = out.shape;
  if (rows !== outRows || columns > n * width) {
    throw new InvalidTensorError(`concatColumns: parts [${parts.shape}] do not fill [${out.shape}].`);
  }
  const values = floats(parts).subarray(parts.offset);
  for (let b = 0; b < rows; b++) {
    for (let part = 0; part * width < columns; part++) {
      const begin = (part * rows + b) * width;
      const length = Math.min(width, columns - part * width);
      row(out, b).set(values.subarray(begin, begin + length), part * width);
    }
  }
}

/** Sum of products, in four interleaved partial sums: the same order for every row, and faster than one chain. */
export function dot(a: Float32Array, aStart: number, b: Float32Array, bStart: number, length: number): number {
  let [s0, s1, s2, s3] = [0, 0, 0, 0];
  const whole = length - (length % 4);
  for (let i = 0; i < whole; i += 4) {
    s0 += a[aStart + i] * b[bStart + i];
    s1 += a[aStart + i + 1] * b[bStart + i + 1];
    s2 += a[aStart + i + 2] * b[bStart + i + 2];
    s3 += a[aStart + i + 3] * b[bStart + i + 3];
  }
  for (let i = whole; i < length; i++) s0 += a[aStart + i] * b[bStart + i];
  return s0 + s1 + (s2 + s3);
}

/**
 * `out[T, N] = x[T, K] · weight[N, K]ᵀ`: output n of token t is the dot product of row t of `x` and row n of `weight`, plus
 * `bias[n]` if there is a bias, plus what `out` held there if `accumulate` says so.
 *
 * Rows of `x`, `weight` and `out` may lie further apart than they are long, because they can be columns of something wider.
 */
export function linear(out: Tensor, x: Tensor, weight: Tensor, { bias, accumulate }: LinearArgs): void {
  // TODO 2.1 (about 13 lines)
  // Two loops, over outputs n and tokens t, around one `dot`.
  // Element (t, i) of `x` is at `x.offset + t * x.strides[0] + i` of `floats(x)`; `weight` and `out` likewise.
  // `bias` is a vector: its element n is at `bias.offset + n`.
  // Without `accumulate`, what `out` held may be NaN: overwrite it, don't multiply it by 0.
  throw new TodoError('2.1', 'days/day2/dense.ts');
}

/**
 * Normalises one row: the `weight.length` elements of `x` from `xStart` on, into `out` from `outStart` on, which may be the same
 * place. Each element is divided by the root of (the mean of the squares + eps), and multiplied by its weight.
 */
function normalizeRow(
  out: Float32Array,
  outStart: number,
  x: Float32Array,
  xStart: number,
  weight: Float32Array,
  eps: number,
): void {
  // TODO 2.2 (about 3 lines)
  // `dot` of the row with itself is the sum of its squares.
  // One division and one root a row; then only products.
  throw new TodoError('2.2', 'days/day2/dense.ts');
}

/**
 * Root mean square normalisation over the last dimension, which is as long as the vector `weight`. `x` is `[T, H]`: one row a token;
 * or `[T, heads, D]`: one row a head. `out` has the shape of `x` and may be `x` itself; both may be columns of something wider.
 */
export function rmsNorm(out: Tensor, x: Tensor, weight: Tensor, eps: number): void {
  // TODO 2.2 (about 10 lines)
  // Call `normalizeRow` for every row; `vector(weight)` is the weight as an array.
  // Row (t, h) of `[T, heads, D]` starts at `offset + t * strides[0] + h * strides[1]`. `x` and `out` have strides of their own.
  // `x.rank` tells the two shapes apart; `[T, H]` is like one head a token.
  throw new TodoError('2.2', 'days/day2/dense.ts');
}

/** A contiguous vector, from its first element. */
function vector(tensor: Tensor): Float32Array {
  return floats(tensor).subarray(tensor.offset, tensor.offset + tensor.numel);
}

/**
 * SwiGLU's middle: `out[t, i] = silu(x[t, i]) · x[t, I + i]` for `x[T, 2I]` and `out[T, I]`, with silu(z) = z / (1 + e⁻ᶻ). The first
 * half of a row is the gate, the second what it lets through.
 */
export function siluAndMul(out: Tensor, x: Tensor): void {
  // TODO 2.3 (about 5 lines)
  // `row(x, t)` and `row(out, t)` are the rows of token t, ready to index.
  // Math.exp of a large number is Infinity. z / Infinity is 0, which is right; Infinity / Infinity is NaN.
  throw new TodoError('2.3', 'days/day2/dense.ts');
}

/**
 * Turns every head of `q[T, Hq, D]` and `k[T, Hkv, D]`, in place, by the angles of its token's position: row `positions[t]` of
 * `cosSin[P, D]`.
 * @throws InvalidTensorError for a position that the table does not have.
 */
export function rotaryEmbedding(q: Tensor, k: Tensor, positions: Tensor, cosSin: Tensor): void {
  // TODO 2.5 (about 4 lines)
  // `ints(positions)` are the positions as an array. Look at how `gatherRows` uses `checkIndex` and `row`.
  // Call `rotateToken` for the token's queries and for its keys.
  throw new TodoError('2.5', 'days/day2/dense.ts');
}

/**
 * Turns each pair (x[i], x[i + D/2]) of every head of token t by the angle for frequency i: (a, b) becomes
 * (a·cos - b·sin, b·cos + a·sin). `cosSin` has the D/2 cosines, then the D/2 sines.
 */
function rotateToken(x: Tensor, t: number, cosSin: Float32Array): void {
  // TODO 2.5 (about 11 lines)
  // Head h of token t starts at `x.offset + t * x.strides[0] + h * x.strides[1]`.
  // Both results need both old numbers: read a and b before you write either.
  throw new TodoError('2.5', 'days/day2/dense.ts');
}
