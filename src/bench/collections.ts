import { GCProfiler } from 'node:v8';

/**
 * What collections of garbage leave in JavaScript's heap. None is asked for: a forced one throws compiled code away and shrinks the
 * young generation, and what comes back afterwards looks like growth.
 */
export class Collections {
  private readonly profiler = new GCProfiler();

  constructor() {
    this.profiler.start();
  }

  /** The least that a full collection has left since the last call, in bytes: undefined if there was none. Keeps notes until the next call. */
  leastLeft(): number | undefined {
    const { statistics } = this.profiler.stop();
    this.profiler.start();
    const left = statistics.flatMap(({ gcType, afterGC }) => {
      return gcType === 'MarkSweepCompact' ? [afterGC.heapStatistics.usedHeapSize] : [];
    });
    return left.length ? Math.min(...left) : undefined;
  }

  close(): void {
    this.profiler.stop();
  }
}
