import type { Tensor } from '#nano/tensor/tensor';

/**
 * What attention must know about the step, beside its queries, keys and values: which token belongs to which
 * sequence, and where in the paged cache it lies. All tokens of a step are packed one after the
 * other, without padding; these arrays say where sequences begin.
 */
export type Context = PrefillContext | DecodeContext;

/** Sequences with any number of new tokens each: prompts, or chunks of them. */
export interface PrefillContext {
  readonly isPrefill: true;
  /** int32 `[T]`: the cache slot each new token's key and value go to. */
  readonly slotMapping: Tensor;
  /** int32 `[B, MB]`: the blocks of each sequence. */
  readonly blockTables: Tensor;
  /** int32 `[B + 1]`: new tokens of sequence b are rows `cuSeqlensQ[b] … cuSeqlensQ[b+1] - 1`. */
  readonly cuSeqlensQ: Tensor;
  /** int32 `[B + 1]`: the same for keys, which include what is cached already. */
  readonly cuSeqlensK: Tensor;
  readonly maxSeqlenQ: number;
  readonly maxSeqlenK: number;
}

/** One new token a sequence. */
export interface DecodeContext {
  readonly isPrefill: false;
  readonly slotMapping: Tensor;
  readonly blockTables: Tensor;
  /** int32 `[B]`: keys of each sequence, the new token's included. */
  readonly contextLens: Tensor;
  readonly maxContextLen: number;
}

/**
 * Running totals, starting at 0: lengths [3, 1, 2] become [0, 3, 4, 6]. Sequence b is then the range from entry
 * b to entry b + 1: how a ragged batch is described without padding.
 */
export function cumulativeLengths(lengths: readonly number[]): Int32Array {
  // solution 1.5 (about 4 lines)
  // hint: One entry more than there are lengths: a 0, then each is the one before plus a length.
  const totals = new Int32Array(lengths.length + 1);
  for (let b = 0; b < lengths.length; b++) totals[b + 1] = totals[b] + lengths[b];
  return totals;
  // end solution
}

/**
 * Cache slots of tokens `start … end - 1` of a sequence: token i lies in block `blockTable[⌊i / blockSize⌋]` at offset
 * `i mod blockSize`, and slot = block · blockSize + offset.
 */
export function slotsFor(blockTable: readonly number[], start: number, end: number, blockSize: number): number[] {
  // solution 1.5 (about 5 lines)
  // hint: Walk the tokens. Neighbouring tokens may lie in blocks far apart, and blocks need not ascend.
  const slots: number[] = [];
  for (let i = start; i < end; i++) {
    slots.push(blockTable[Math.floor(i / blockSize)] * blockSize + (i % blockSize));
  }
  return slots;
  // end solution
}

/** Block tables as one rectangle `[B, longest]`, row after row; short rows are filled with -1, which is never read. */
export function padBlockTables(tables: readonly (readonly number[])[]): { values: Int32Array; width: number } {
  // solution 1.5 (about 4 lines)
  // hint: At least one column wide, also when every table is empty. Fill with -1 first, then set the rows.
  const width = Math.max(1, ...tables.map((table) => table.length));
  const values = new Int32Array(tables.length * width).fill(-1);
  tables.forEach((table, b) => values.set(table, b * width));
  return { values, width };
  // end solution
}
