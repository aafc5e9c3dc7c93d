// Exercise made from src/engine/stop-checker.ts by `npm run days`, which keeps what you write. [e06ee922d39a0078]
import { InvalidRequestError } from '#nano/errors';
import { TodoError } from '#nano/utils/todo';

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
    // TODO 5.4 (about 12 lines)
    // The text joins `held`. If there is a match in it, set `matched`, hold nothing more, and return what lies before.
    // If there is none, everything is certain but the end that may be the beginning of a stop string.
    throw new TodoError('5.4', 'days/day5/stop-checker.ts');
  }

  /** The end of the text: what was held back did not become a stop string. */
  flush(): string {
    const out = this.held;
    this.held = '';
    return out;
  }

  /** The match in `held` whose last character comes first, and of those the longest; `end` is the index behind it. */
  private firstMatch(): { stop: string; end: number } | undefined {
    // TODO 5.4 (about 8 lines)
    // `indexOf` gives the first place of one stop string. Compare where they end, not where they begin.
    throw new TodoError('5.4', 'days/day5/stop-checker.ts');
  }

  /** Length of the longest end of `held` that is the beginning of a stop string. */
  private possibleStart(): number {
    // TODO 5.4 (about 7 lines)
    // For each stop string try its beginnings, the longest first: does `held` end with it? The beginning that is the
    // whole stop string needs no try: it would be a match.
    throw new TodoError('5.4', 'days/day5/stop-checker.ts');
  }
}
