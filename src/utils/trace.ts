/** Microseconds, as the format wants them. */
interface Span {
  readonly name: string;
  readonly track: number;
  readonly start: number;
  readonly length: number;
  readonly args: object | undefined;
}

const MOST_SPANS = 1_000_000;

/**
 * What happened when, in the Trace Event Format (Chromium project), which ui.perfetto.dev and chrome://tracing open. Spans on
 * one track that lie within each other are drawn as a stack.
 */
export class Trace {
  private readonly spans: Span[] = [];
  private readonly origin = performance.now();
  private dropped = 0;

  /**
   * @param tracks their names; a span names its track by the place in this list
   * @param about goes with the trace: what was looked at, on which machine.
   */
  constructor(
    private readonly tracks: readonly string[],
    private readonly about: Readonly<Record<string, string>> = {},
  ) {}

  /** `start` and `end` are times of `performance.now()`. */
  add(track: number, name: string, start: number, end: number, args?: object): void {
    if (this.spans.length >= MOST_SPANS) this.dropped++;
    else this.spans.push({ name, track, start: 1e3 * (start - this.origin), length: 1e3 * (end - start), args });
  }

  /** The time `body` takes, also when it throws. */
  time<T>(track: number, name: string, body: () => T, args?: object): T {
    const start = performance.now();
    try {
      return body();
    } finally {
      this.add(track, name, start, performance.now(), args);
    }
  }

  toJSON(): object {
    const names = this.tracks.map((name, tid) => ({ ph: 'M', name: 'thread_name', pid: 1, tid, args: { name } }));
    const spans = this.spans.map(({ name, track, start, length, args }) => {
      return { ph: 'X', name, pid: 1, tid: track, ts: start, dur: length, ...(args && { args }) };
    });
    const dropped = this.dropped > 0 ? { dropped: `${this.dropped} spans after the first ${MOST_SPANS}` } : {};
    return { traceEvents: [...names, ...spans], displayTimeUnit: 'ms', otherData: { ...this.about, ...dropped } };
  }
}
