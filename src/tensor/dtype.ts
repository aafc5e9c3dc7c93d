/**
 * Element types. Activations are `float32` on the CPU backends; weights and the KV cache take the
 * model's dtype. `int32` carries token ids, positions, block tables and lengths.
 */
export type FloatDType = 'float32' | 'bfloat16' | 'float16';
export type DType = FloatDType | 'int32';

/** Bytes one element takes in a checkpoint and in native memory. */
export const DTYPE_BYTES: Readonly<Record<DType, number>> = {
  float32: 4,
  bfloat16: 2,
  float16: 2,
  int32: 4,
};

const scratch = new DataView(new ArrayBuffer(4));
const floatToBits = (x: number): number => {
  scratch.setFloat32(0, x);
  return scratch.getUint32(0);
};
const bitsToFloat = (bits: number): number => {
  scratch.setUint32(0, bits);
  return scratch.getFloat32(0);
};

/**
 * bfloat16 is the upper half of a float32: the same 8 exponent bits, 7 of the 23 mantissa bits.
 * Rounds to nearest, ties to even; NaN stays NaN.
 */
export function bfloat16Bits(x: number): number {
  const bits = floatToBits(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  // Adding just under half of the dropped range, plus one when the kept part is odd, carries
  // exactly when the value should round up.
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

export const bfloat16FromBits = (bits: number): number => bitsToFloat((bits << 16) >>> 0);

/** IEEE 754 half precision: 5 exponent bits, 10 mantissa bits; rounds to nearest, ties to even. */
export function float16Bits(x: number): number {
  const bits = floatToBits(x);
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  // 65520 is halfway between the largest half (65504) and the next power: it rounds to infinity.
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Subnormal: the value is a whole number of 2^-24 steps.
    return sign | roundTiesToEven(Math.abs(x) * 2 ** 24);
  }
  const rebiased = magnitude - 0x38000000;
  return sign | ((rebiased + 0xfff + ((rebiased >>> 13) & 1)) >>> 13);
}

export function float16FromBits(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 0x1f;
  const mantissa = bits & 0x3ff;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

function roundTiesToEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** The nearest value of `dtype`, as a float32. */
export function roundTo(dtype: FloatDType, x: number): number {
  if (dtype === 'float32') return Math.fround(x);
  if (dtype === 'bfloat16') return bfloat16FromBits(bfloat16Bits(x));
  return float16FromBits(float16Bits(x));
}

/** Decodes little-endian elements of a checkpoint into float32. */
export function decodeFloats(dtype: FloatDType, bytes: Uint8Array): Float32Array {
  const count = bytes.byteLength / DTYPE_BYTES[dtype];
  const out = new Float32Array(count);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (dtype === 'float32') for (let i = 0; i < count; i++) out[i] = view.getFloat32(4 * i, true);
  else if (dtype === 'bfloat16') {
    const bits = new Uint32Array(out.buffer);
    for (let i = 0; i < count; i++) bits[i] = view.getUint16(2 * i, true) << 16;
  } else for (let i = 0; i < count; i++) out[i] = float16FromBits(view.getUint16(2 * i, true));
  return out;
}
