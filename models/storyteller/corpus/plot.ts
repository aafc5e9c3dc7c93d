/** A question about a story. It is asked only if the story used every slot in `answer` and `ask`. */
export interface QuestionTemplate {
  kind: string;
  ask: string[];
  answer: string;
  /** Slots whose text a right answer must contain. */
  keys: string[];
}

/** One shape of story: what happens between the opening and the ending, which all plots share (story.ts). */
export interface Plot {
  name: string;
  /** Continues "a story ..." in a request. */
  themes: string[];
  /** For each beat one of its templates is told. BREAK starts a new paragraph. */
  beats: string[][];
  /** What the hero learned, to be told at the end. */
  morals: string[];
  /** Does the hero own the thing at the end? Then an ending may mention it. */
  keepsThing: boolean;
  /** Who ends the story at the hero's side. */
  ally: 'helper' | 'friend';
  questions: QuestionTemplate[];
}

export const BREAK = ['\n\n'];

/** How another animal comes in; the checker (check.ts) knows these shapes. */
export const MEET_HELPER = [
  '[On the way home|Just then|After a while|At the corner], {he} met {a pspecies} named {helper}.',
  'That was when {a pspecies} called {helper} came [by|along|down the path].',
  'Out of the {weather} {day} came {a pspecies} named {helper}.',
  '{Helper} the {pspecies} [was sitting nearby|had been watching|happened to pass by].',
];
