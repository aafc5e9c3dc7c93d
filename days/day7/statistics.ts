// Exercise made from src/bench/statistics.ts by `npm run days`, which keeps what you write. [927189a012c344b1]
import { TodoError } from '#nano/utils/todo';

// What many measurements say. An empty sample says nothing, and is refused.

/**
 * The value below which `p` percent of a sample lie. In ascending order the values have ranks 0, 1, …, n - 1; percentile p has rank
 * p / 100 · (n - 1), and between two ranks the way is straight. The sample stays as it is.
 * @param p from 0, the smallest value, to 100, the largest
 * @throws RangeError for an empty sample, or another p.
 */
export function percentile(values: readonly number[], p: number): number {
  // TODO 7.1 (about 6 lines)
  // Refuse first what must be refused. `!(p >= 0 && p <= 100)` also finds NaN.
  // Sort a copy, as numbers: without a comparison `sort` puts 10 before 9.
  // The rank lies between Math.floor(rank) and Math.ceil(rank), which are the same where it is whole.
  throw new TodoError('7.1', 'days/day7/statistics.ts');
}

/** @throws RangeError for an empty sample. */
export function mean(values: readonly number[]): number {
  // TODO 7.1 (about 2 lines)
  // 0 / 0 is NaN, which nobody notices before it is in a table.
  throw new TodoError('7.1', 'days/day7/statistics.ts');
}

/** How a distribution of times is told: half are below p50, one in ten is above p90, one in a hundred above p99. */
export interface Percentiles {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
}

/** @throws RangeError for an empty sample. */
export function percentiles(values: readonly number[]): Percentiles {
  // TODO 7.1 (1 line)
  // Three calls of `percentile`.
  throw new TodoError('7.1', 'days/day7/statistics.ts');
}

/**
 * How the times of one piece of work, repeated, are told: the shortest is what the code can do, since all disturbances make it longer;
 * the median is what it usually does.
 * @throws RangeError when there are none.
 */
export function bestAndMedian(times: readonly number[]): { value: number; median: number } {
  // TODO 7.1 (1 line)
  // Which percentiles are these two?
  throw new TodoError('7.1', 'days/day7/statistics.ts');
}

export interface Point {
  readonly x: number;
  readonly y: number;
}

/** The slope of a series, known to `slope ± margin`: its 95 % confidence interval. */
export interface Trend {
  readonly slope: number;
  readonly margin: number;
}

/**
 * Cuts a series into slices, one behind the other, and gives the mean x and the mean y of each: slice i goes from point
 * ⌊i · n / count⌋ up to, and without, point ⌊(i + 1) · n / count⌋. What a process measures of itself every second says nearly what
 * it said the second before; means over slices are nearer to being observations of their own, which `trend` asks for.
 * @throws RangeError when there are fewer points than slices.
 */
export function sliceMeans(points: readonly Point[], count: number): Point[] {
  if (points.length < count) throw new RangeError(`${points.length} points cannot be cut into ${count} slices.`);
  // TODO 7.4 (about 6 lines)
  // `points.slice(start, end)` is without `end`. `mean` is there (your 7.1).
  throw new TodoError('7.4', 'days/day7/statistics.ts');
}

/**
 * The straight line through points that leaves the smallest squares (least squares): its slope, and how far that may be off. x̄ and ȳ are
 * the means, and a residual is what a point is above the line, y - ȳ - slope · (x - x̄).
 *
 *     slope  = Σ (x - x̄)(y - ȳ) / Σ (x - x̄)²
 *     margin = t · √( Σ residual² / (n - 2) / Σ (x - x̄)² )      with t = studentT(n - 2)
 *
 * If points scatter about a line independently and normally, the interval holds the line's true slope 95 times of 100.
 * @throws RangeError for fewer than three points, which always lie on a line, and for points with one and the same x.
 */
export function trend(points: readonly Point[]): Trend {
  if (points.length < 3)
    throw new RangeError(`${points.length} points don't show how far they scatter: give 3 or more.`);
  // TODO 7.4 (about 7 lines)
  // Three sums: Σ (x - x̄)², Σ (x - x̄)(y - ȳ), and, when the slope is known, the squares of the residuals.
  // n - 2 and not n: two numbers, height and slope, have been fitted to these same points.
  throw new TodoError('7.4', 'days/day7/statistics.ts');
}

/** Whether no growth and no shrinking has been shown: zero is among the slopes that the data allow. */
export function holdsZero({ slope, margin }: Trend): boolean {
  // TODO 7.4 (1 line)
  // Slopes have signs. A series that never moves has slope 0 and margin 0.
  throw new TodoError('7.4', 'days/day7/statistics.ts');
}

/** 97.5 % quantiles of Student's distribution with 1 to 10 degrees of freedom. */
const STUDENT_T = [12.706, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.306, 2.2622, 2.2281];
const NORMAL = 1.959964;

/**
 * How many standard errors a 95 % confidence interval reaches to each side, where the standard error was itself estimated: far for few
 * degrees of freedom, 1.96 for many.
 */
export function studentT(degrees: number): number {
  if (degrees <= STUDENT_T.length) return STUDENT_T[degrees - 1];
  // Cornish and Fisher's expansion about the normal distribution; its error is below 0.0002 from here on.
  const z = NORMAL;
  const first = (z ** 3 + z) / 4;
  const second = (5 * z ** 5 + 16 * z ** 3 + 3 * z) / 96;
  const third = (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / 384;
  return z + first / degrees + second / degrees ** 2 + third / degrees ** 3;
}
