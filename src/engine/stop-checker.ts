import { InvalidRequestError } from '#nano/errors';

export interface StopCheckerOptions {
  /** Leave the stop string in the text. Off unless told otherwise. */
  includeStopStrInOutput?: boolean;
}

/**
 * Ends a text where a stop string appears. A stop string may span tokens: after 'El', with the stop
 * 'Elephant', nobody knows yet whether those two letters belong to the answer. So text that may be the
 * beginning of a stop string is held back until it is clear.
 *
 * When several match, the one whose last character comes first wins, and of those the longest: the
 * result does not depend on how the text was cut into tokens.
 */
export class StopChecker {
  /** The stop string that ended the text, once one has. Nothing comes out after that. */
  matched: string | undefined;
  private held = '';
  private readonly includeStop: boolean;

  /** @throws InvalidRequestError on an empty stop string: it would match everywhere. */
  constructor(
    private readonly stops: readonly string[],
    { includeStopStrInOutput = false }: StopCheckerOptions = {},
  ) {
    if (stops.includes('')) throw new InvalidRequestError("A stop string must not be empty: '' is in every text.");
    this.includeStop = includeStopStrInOutput;
  }

  /**
   * Adds text; returns what is certain to belong to the output. Look at `matched` afterwards: it is set as soon as a stop string
   * is complete, and what is returned then ends before it (or behind it, with includeStopStrInOutput).
   */
  push(text: string): string {
    if (this.matched !== undefined) return '';
    if (this.stops.length === 0) return text;
    // solution 5.4 (about 12 lines)
    // hint: The text joins `held`. If there is a match in it, set `matched`, hold nothing more, and return what lies before.
    // hint: If there is none, everything is certain but the end that may be the beginning of a stop string.
    this.held += text;
    const match = this.firstMatch();
    if (match !== undefined) {
      this.matched = match.stop;
      const kept = this.held.slice(0, match.end - (this.includeStop ? 0 : match.stop.length));
      this.held = '';
      return kept;
    }
    const certain = this.held.length - this.possibleStart();
    const out = this.held.slice(0, certain);
    this.held = this.held.slice(certain);
    return out;
    // end solution
  }

  /** The end of the text: what was held back did not become a stop string. */
  flush(): string {
    const out = this.held;
    this.held = '';
    return out;
  }

  /** The match in `held` whose last character comes first, and of those the longest; `end` is the index behind it. */
  private firstMatch(): { stop: string; end: number } | undefined {
    // solution 5.4 (about 8 lines)
    // hint: `indexOf` gives the first place of one stop string. Compare where they end, not where they begin.
    let first: { stop: string; end: number } | undefined;
    for (const stop of this.stops) {
      const start = this.held.indexOf(stop);
      if (start < 0) continue;
      const end = start + stop.length;
      const sooner = first === undefined || end < first.end;
      if (sooner || (end === first?.end && stop.length > first.stop.length)) first = { stop, end };
    }
    return first;
    // end solution
  }

  /** Length of the longest end of `held` that is the beginning of a stop string. */
  private possibleStart(): number {
    // solution 5.4 (about 7 lines)
    // hint: For each stop string try its beginnings, the longest first: does `held` end with it? The beginning that is the
    // hint: whole stop string needs no try: it would be a match.
    let longest = 0;
    for (const stop of this.stops) {
      for (let length = Math.min(stop.length - 1, this.held.length); length > longest; length--) {
        if (this.held.endsWith(stop.slice(0, length))) longest = length;
      }
    }
    return longest;
    // end solution
  }
}
