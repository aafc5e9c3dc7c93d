import { mean, type Percentiles, percentiles } from '#nano/bench/statistics';

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
  // solution 7.2 (about 6 lines)
  // hint: n tokens have n - 1 gaps between them. The wait for the first token is none of these.
  // hint: `mean` refuses an empty list.
  const first = tokensAt[0];
  const last = tokensAt[tokensAt.length - 1];
  const interToken = tokensAt.slice(1).map((at, i) => at - tokensAt[i]);
  const perToken = interToken.length > 0 ? mean(interToken) : undefined;
  const times = { firstToken: first - arrivedAt, interToken, perToken, endToEnd: last - arrivedAt };
  return { sentLate: sentAt - arrivedAt, ...times };
  // end solution
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
  // solution 7.2 (about 9 lines)
  // hint: Collect each kind from all requests, then `percentiles`. A list of lists becomes a list by flatMap.
  // hint: An undefined TPOT is left out; it is not 0.
  const ofAny = (values: number[]) => (values.length > 0 ? percentiles(values) : undefined);
  return {
    sentLate: percentiles(requests.map(({ sentLate }) => sentLate)),
    firstToken: percentiles(requests.map(({ firstToken }) => firstToken)),
    interToken: ofAny(requests.flatMap(({ interToken }) => interToken)),
    perToken: ofAny(requests.flatMap(({ perToken }) => perToken ?? [])),
    endToEnd: percentiles(requests.map(({ endToEnd }) => endToEnd)),
  };
  // end solution
}
