import type { EngineCounters } from '#nano/engine/llm-engine';
import type { RequestUpdate } from '#nano/engine/outputs';

const WIDTH = 20;

/** `generate`'s progress line: requests done, and the speed of prefill and decode since it began. */
export class Progress {
  private finished = 0;
  private lastShown = 0;
  private readonly start: EngineCounters;

  constructor(
    private readonly total: number,
    private readonly counters: EngineCounters,
    private readonly show: (line: string | null) => void,
  ) {
    this.start = { ...counters };
  }

  update(update: RequestUpdate): void {
    if (update.output || update.error) this.finished++;
    const now = performance.now();
    if (now - this.lastShown < 100 && this.finished < this.total) return;
    this.lastShown = now;
    const filled = Math.round((WIDTH * this.finished) / this.total);
    const bar = '█'.repeat(filled) + '░'.repeat(WIDTH - filled);
    this.show(
      `${bar} ${this.finished}/${this.total} · prefill ${this.rate('prefill')} · decode ${this.rate('decode')} tok/s`,
    );
  }

  done(): void {
    this.show(null);
  }

  private rate(kind: 'prefill' | 'decode'): string {
    const tokens = this.counters[`${kind}Tokens`] - this.start[`${kind}Tokens`];
    const seconds = this.counters[`${kind}Seconds`] - this.start[`${kind}Seconds`];
    return seconds > 0 ? (tokens / seconds).toFixed(0) : '–';
  }
}
