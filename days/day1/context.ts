// Exercise made from src/utils/context.ts by `npm run days`, which keeps what you write. [1a2a4ffe5a6f3169]
import type { Tensor } from '#nano/tensor/tensor';
import { TodoError } from '#nano/utils/todo';

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
  // TODO 1.5 (about 4 lines)
  // One entry more than there are lengths: a 0, then each is the one before plus a length.
  throw new TodoError('1.5', 'days/day1/context.ts');
}

/**
 * Cache slots of tokens `start … end - 1` of a sequence: token i lies in block `blockTable[⌊i / blockSize⌋]` at offset
 * `i mod blockSize`, and slot = block · blockSize + offset.
 */
export function slotsFor(blockTable: readonly number[], start: number, end: number, blockSize: number): number[] {
  // TODO 1.5 (about 5 lines)
  // Walk the tokens. Neighbouring tokens may lie in blocks far apart, and blocks need not ascend.
  throw new TodoError('1.5', 'days/day1/context.ts');
}

/** Block tables as one rectangle `[B, longest]`, row after row; short rows are filled with -1, which is never read. */
export function padBlockTables(tables: readonly (readonly number[])[]): { values: Int32Array; width: number } {
  // TODO 1.5 (about 4 lines)
  // At least one column wide, also when every table is empty. Fill with -1 first, then set the rows.
  throw new TodoError('1.5', 'days/day1/context.ts');
}
