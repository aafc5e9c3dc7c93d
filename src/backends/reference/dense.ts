import { InvalidTensorError } from '#nano/errors';
import type { LinearArgs } from '#nano/tensor/kernels';
import type { Tensor } from '#nano/tensor/tensor';

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

export function embedding(out: Tensor, ids: Tensor, weight: Tensor): void {
  ints(ids).forEach((id, t) => {
    checkIndex('Token id', id, weight.shape[0]);
    row(out, t).set(row(weight, id));
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

export function linear(out: Tensor, x: Tensor, weight: Tensor, { bias, accumulate }: LinearArgs): void {
  const [tokens, inputs] = x.shape;
  const outputs = weight.shape[0];
  const [xs, ws, ys] = [floats(x), floats(weight), floats(out)];
  const bs = bias && floats(bias).subarray(bias.offset);
  // Weights outside, tokens inside: each weight row is fetched once for the whole batch.
  for (let n = 0; n < outputs; n++) {
    const wStart = weight.offset + n * weight.strides[0];
    for (let t = 0; t < tokens; t++) {
      const y = dot(xs, x.offset + t * x.strides[0], ws, wStart, inputs);
      const at = out.offset + t * out.strides[0] + n;
      ys[at] = (accumulate ? ys[at] : 0) + (bs ? y + bs[n] : y);
    }
  }
}

/** Normalises `size` elements of `x` from `xStart` into `out` from `outStart`. */
function normalizeRow(
  out: Float32Array,
  outStart: number,
  x: Float32Array,
  xStart: number,
  weight: Float32Array,
  eps: number,
): void {
  const size = weight.length;
  const scale = 1 / Math.sqrt(dot(x, xStart, x, xStart, size) / size + eps);
  for (let i = 0; i < size; i++) out[outStart + i] = x[xStart + i] * scale * weight[i];
}

export function rmsNorm(out: Tensor, x: Tensor, weight: Tensor, eps: number): void {
  const [ys, xs] = [floats(out), floats(x)];
  const gain = vector(weight);
  const heads = x.rank === 3 ? x.shape[1] : 1;
  for (let t = 0; t < x.shape[0]; t++) {
    for (let h = 0; h < heads; h++) {
      const xStart = x.offset + t * x.strides[0] + (x.rank === 3 ? h * x.strides[1] : 0);
      const yStart = out.offset + t * out.strides[0] + (x.rank === 3 ? h * out.strides[1] : 0);
      normalizeRow(ys, yStart, xs, xStart, gain, eps);
    }
  }
}

function vector(tensor: Tensor): Float32Array {
  return floats(tensor).subarray(tensor.offset, tensor.offset + tensor.numel);
}

export function siluAndMul(out: Tensor, x: Tensor): void {
  const half = out.shape[1];
  for (let t = 0; t < x.shape[0]; t++) {
    const [ys, xs] = [row(out, t), row(x, t)];
    for (let i = 0; i < half; i++) ys[i] = (xs[i] / (1 + Math.exp(-xs[i]))) * xs[half + i];
  }
}

export function rotaryEmbedding(q: Tensor, k: Tensor, positions: Tensor, cosSin: Tensor): void {
  ints(positions).forEach((position, t) => {
    checkIndex('Position', position, cosSin.shape[0]);
    const angles = row(cosSin, position);
    for (const x of [q, k]) rotateToken(x, t, angles);
  });
}

/** Turns each pair (x[i], x[i + D/2]) of every head by the token's angle for frequency i. */
function rotateToken(x: Tensor, t: number, cosSin: Float32Array): void {
  const [, heads, dim] = x.shape;
  const half = dim / 2;
  const xs = floats(x);
  for (let h = 0; h < heads; h++) {
    const start = x.offset + t * x.strides[0] + h * x.strides[1];
    for (let i = 0; i < half; i++) {
      const [cos, sin] = [cosSin[i], cosSin[half + i]];
      const [a, b] = [xs[start + i], xs[start + half + i]];
      xs[start + i] = a * cos - b * sin;
      xs[start + half + i] = b * cos + a * sin;
    }
  }
}
