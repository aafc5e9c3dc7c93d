// Exercise made from src/bench/request-times.ts by `npm run days`, which keeps what you write. [6100cabe6b5a38d2]
import { mean, type Percentiles, percentiles } from '#nano/bench/statistics';
import { TodoError } from '#nano/utils/todo';

/** What was seen of one request, in milliseconds of one clock. */
export interface Timeline {
  /** When it was due, by the plan of the load: a user sends when he likes, and starts waiting. */
  readonly arrivedAt: number;
  /** When the engine was given it. Later, where whoever sends requests was held up, for instance by a step that was running. */
  readonly sentAt: number;
  /** When each of its tokens came. */
  readonly tokensAt: readonly number[];
}

/** Milliseconds that one request waited, and for what. */
export interface RequestTimes {
  /** From when it was due to when it was sent: what a load generator that looks at its own clock would leave out. */
  readonly sentLate: number;
  /** Time to first token (TTFT), from when it was due. Being late and the engine's queue are in it. */
  readonly firstToken: number;
  /** Inter-token latencies (ITL): from each token to the next. */
  readonly interToken: readonly number[];
  /** Time per output token (TPOT): their mean. Undefined for a request of one token, which has none. */
  readonly perToken: number | undefined;
  /** From when it was due to the last token. */
  readonly endToEnd: number;
}

/** @throws RangeError when no token came, or times go backwards: then they are from two clocks. */
export function requestTimes({ arrivedAt, sentAt, tokensAt }: Timeline): RequestTimes {
  if (tokensAt.length === 0) throw new RangeError('A request without a token has no times.');
  [sentAt, ...tokensAt].reduce((before, at) => {
    if (at >= before) return at;
    throw new RangeError(`What came at ${at} ms cannot follow what came at ${before} ms.`);
  }, arrivedAt);
  // TODO 7.2 (about 6 lines)
  // n tokens have n - 1 gaps between them. The wait for the first token is none of these.
  // `mean` refuses an empty list.
  throw new TodoError('7.2', 'days/day7/request-times.ts');
}

/** How the times of many requests are told. */
export interface ServiceTimes {
  readonly sentLate: Percentiles;
  readonly firstToken: Percentiles;
  /** Over all gaps of all requests: what a reader of any answer sees. Undefined when no request had two tokens. */
  readonly interToken: Percentiles | undefined;
  /** Over requests: each has one mean, so one long gap hides in it. Undefined likewise. */
  readonly perToken: Percentiles | undefined;
  readonly endToEnd: Percentiles;
}

/** @throws RangeError when there are no requests. */
export function serviceTimes(requests: readonly RequestTimes[]): ServiceTimes {
  // TODO 7.2 (about 9 lines)
  // Collect each kind from all requests, then `percentiles`. A list of lists becomes a list by flatMap.
  // An undefined TPOT is left out; it is not 0.
  throw new TodoError('7.2', 'days/day7/request-times.ts');
}
