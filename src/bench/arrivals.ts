/**
 * When requests arrive that know nothing of each other: a Poisson process. Its gaps are exponentially distributed with mean 1 / rate,
 * so that a moment without an arrival says nothing about the next one. A uniform number u gives the gap -ln(1 - u) / rate.
 * @param rate requests a second
 * @param uniform draws a number from 0, which may come, to 1, which may not; once for each gap
 * @returns seconds from the start, ascending: the first request, too, comes after a gap.
 * @throws RangeError for a rate that is not above 0 and finite.
 */
export function poissonArrivals(rate: number, count: number, uniform: () => number): number[] {
  // solution 7.5 (about 5 lines)
  // hint: Add up the gaps as you go. Math.log is the natural logarithm; Math.log(0) is -Infinity.
  if (!(rate > 0 && rate < Infinity)) throw new RangeError(`A rate is a number above 0, not ${rate}.`);
  let time = 0;
  return Array.from({ length: count }, () => {
    time -= Math.log(1 - uniform()) / rate;
    return time;
  });
  // end solution
}

/**
 * Requests in the system, on average over time, by Little's law: the rate at which they come times how long each stays. It holds
 * whatever the order and however the stays overlap.
 * @param stays milliseconds, of all requests that came and went within `duration` milliseconds
 */
export function meanNumber(stays: readonly number[], duration: number): number {
  // solution 7.5 (1 line)
  // hint: By hand: 3 stays of 2 s within 6 s. One after the other there is always 1; all at once, 3 for a third of the time.
  return stays.reduce((sum, stay) => sum + stay, 0) / duration;
  // end solution
}
