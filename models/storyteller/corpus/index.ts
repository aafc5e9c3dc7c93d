import type { Split } from './cast.js';
import type { Slots } from './grammar.js';
import { Random } from './random.js';
import { askAbout, type Question, tellStory } from './story.js';

export { checkStory, type Verdict } from './check.js';
export { chatML, type Message, makeDocument, readAndAnswer } from './documents.js';
export { Random } from './random.js';
export { askAbout, type Question, type Story, tellStory } from './story.js';

export interface AskedQuestion extends Question {
  accept(text: string): boolean;
}

export interface HeldOutStory {
  story: string;
  plot: string;
  facts: Slots;
  questions: AskedQuestion[];
}

/** An answer is right if it holds every key word of the true answer, whatever its wording. */
export function accepts(keys: readonly string[], text: string): boolean {
  const plain = ` ${text
    .toLowerCase()
    .replace(/[^a-z0-9' ]+/g, ' ')
    .replace(/ +/g, ' ')} `;
  return keys.every((key) =>
    plain.includes(
      ` ${key
        .toLowerCase()
        .replace(/[^a-z0-9' ]+/g, ' ')
        .replace(/ +/g, ' ')} `,
    ),
  );
}

/** Fresh stories, by default about combinations of hero, home and thing that training never saw. */
export function heldOutStories(seed: number, count: number, split: Split = 'heldout'): HeldOutStory[] {
  return Array.from({ length: count }, (_, index) => {
    const random = new Random(seed, index);
    const { text, plot, facts, ...rest } = tellStory(random, split);
    const questions = askAbout({ text, plot, facts, ...rest }, random);
    return {
      story: text,
      plot: plot.name,
      facts,
      questions: questions.map((q) => ({ ...q, accept: (answer: string) => accepts(q.keys, answer) })),
    };
  });
}
