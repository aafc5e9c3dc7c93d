import type { Trace } from '#nano/utils/trace';

/** An entry of a trace, as Perfetto reads it. */
export interface TraceEvent {
  readonly ph: string;
  readonly name: string;
  readonly tid: number;
  readonly ts: number;
  readonly dur: number;
  readonly args?: { readonly name?: string; readonly tensors?: string };
}

/** What a file would hold. */
export const eventsOf = (trace: Trace) => JSON.parse(JSON.stringify(trace)).traceEvents as TraceEvent[];
