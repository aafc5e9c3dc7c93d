// Exercise made from src/bench/arrivals.ts by `npm run days`, which keeps what you write. [e20a84fb2c801ab7]
import { TodoError } from '#nano/utils/todo';

/**
 * When requests arrive that know nothing of each other: a Poisson process. Its gaps are exponentially distributed with mean 1 / rate,
 * so that a moment without an arrival says nothing about the next one. A uniform number u gives the gap -ln(1 - u) / rate.
 * @param rate requests a second
 * @param uniform draws a number from 0, which may come, to 1, which may not; once for each gap
 * @returns seconds from the start, ascending: the first request, too, comes after a gap.
 * @throws RangeError for a rate that is not above 0 and finite.
 */
export function poissonArrivals(rate: number, count: number, uniform: () => number): number[] {
  // TODO 7.5 (about 5 lines)
  // Add up the gaps as you go. Math.log is the natural logarithm; Math.log(0) is -Infinity.
  throw new TodoError('7.5', 'days/day7/arrivals.ts');
}

/**
 * Requests in the system, on average over time, by Little's law: the rate at which they come times how long each stays. It holds
 * whatever the order and however the stays overlap.
 * @param stays milliseconds, of all requests that came and went within `duration` milliseconds
 */
export function meanNumber(stays: readonly number[], duration: number): number {
  // TODO 7.5 (1 line)
  // By hand: 3 stays of 2 s within 6 s. One after the other there is always 1; all at once, 3 for a third of the time.
  throw new TodoError('7.5', 'days/day7/arrivals.ts');
}
