import { IMPLIED, pickCast, type Split } from './cast.js';
import { expand, type Slots, slotsOf } from './grammar.js';
import { BREAK, type Plot, type QuestionTemplate } from './plot.js';
import { fear, obstacle } from './plots-courage.js';
import { gift, quarrel } from './plots-friends.js';
import { contest, rescue } from './plots-kindness.js';
import { lost, wish } from './plots-wishes.js';
import type { Random } from './random.js';

export const PLOTS: readonly Plot[] = [lost, wish, fear, gift, obstacle, quarrel, rescue, contest];

export interface Story {
  text: string;
  plot: Plot;
  facts: Slots;
  /** Slots that the text really told. */
  told: ReadonlySet<string>;
}

export interface Question {
  kind: string;
  question: string;
  answer: string;
  /** What a right answer must contain. */
  keys: string[];
}

const OPENINGS = [
  'Once upon a time, there was {a adj} {species} named {hero} who lived {home}.',
  'Once upon a time, {a adj} {species} named {hero} lived {home}.',
  'Once upon a time, {home}, there lived {a adj} {species} called {hero}.',
  '{Home} lived {a adj} {species} called {hero}.',
  '{hero} was {a adj} {species} who lived {home}.',
  'Long ago, {a adj} {species} named {hero} lived {home}.',
  'There was once {a adj} {species}. {His} name was {hero}, and {he} lived {home}.',
  'This is the story of {hero}, {a adj} {species} who lived {home}.',
  'Not so long ago, there was {a adj} {species} called {hero} who lived {home}.',
];

const HABITS = [
  'Every {part}, {he} {habit}.',
  '{He} {habit} every {part}[|, rain or shine|, without fail].',
  'Every {part}, without fail, {hero} {habit}.',
];

/** The ending comes back to the habit of the opening. */
const CALLBACKS = [
  'The next {part}, {hero} {habit}, just as always, [but with a wider smile|but with a lighter heart|and hummed a ' +
    'little].',
  'And when {hero} {habit} the next {part}, {ally} [came along|was there too|kept {him} company].',
  'The next {part}, {he} {habit} again, and this time {ally} [did it too|joined in|came to watch].',
  'The next {part} was not {weather} at all. {hero} {habit}, and [{ally} came along|{ally} was there too|hummed ' +
    'a little].',
  'The {weather} weather was over by the next {part}, when {he} {habit}, [just as always|this time with {ally}].',
  '{He} still {habit} every {part}, but now [{he} was never alone|{ally} often came too|there was always company].',
];

const CLOSINGS = [
  'From that day on, {hero} and {ally} were the best of friends.',
  'And from that day on, {hero} the {species} knew that {moral}.',
  'That is how {hero} the {species} learned that {moral}.',
  'And {hero} never forgot that {moral}.',
  '"Now I know," {hero} said to {ally}, "that {moral}." And they lived happily ever after.',
  'And {hero} never forgot what {helper} the {pspecies} had done for {him}.',
  'To this day, {hero} and {ally} tell the story of the {ct}.',
  'To this day, {hero} and {ally} tell the story of that {weather} {day}.',
  'And {hero} the {species} never forgot that {weather} {day}.',
];

const CLOSINGS_WITH_THING = [
  'That night, {hero} fell asleep with the {ct} close by and a smile on {his} face.',
  'And ever after, {hero} took good care of the {ct}.',
];

const COMMON_QUESTIONS: QuestionTemplate[] = [
  {
    kind: 'hero',
    ask: ['Who is the story about?', 'Who is the hero of the story?', 'Whom is the story about?'],
    answer: 'The story is about {hero} the {species}.',
    keys: ['hero', 'species'],
  },
  {
    kind: 'name',
    ask: ['What is the name of the {species}?', 'What is the {species} called?'],
    answer: 'The {species} is called {hero}.',
    keys: ['hero'],
  },
  {
    kind: 'species',
    ask: ['What animal is {hero}?', 'What kind of animal is {hero}?', 'What was {hero}?'],
    answer: '{hero} is {a species}.',
    keys: ['species'],
  },
  {
    kind: 'home',
    ask: ['Where did {hero} live?', "Where was {hero}'s home?", 'Where does {hero} live?'],
    answer: '{hero} lived {home}.',
    keys: ['home'],
  },
  {
    kind: 'habit',
    ask: ['What did {hero} do every {part}?', 'What did {hero} like to do every {part}?'],
    answer: 'Every {part}, {hero} {habit}.',
    keys: ['habit'],
  },
  {
    kind: 'colour',
    ask: ['What colour was the {thing}?', 'Which colour was the {thing}?'],
    answer: 'The {thing} was {colour}.',
    keys: ['colour'],
  },
  {
    kind: 'when',
    ask: ['When did the story happen?', 'When did it happen?'],
    answer: 'It happened one {weather} {day}.',
    keys: ['weather', 'day'],
  },
  {
    kind: 'weather',
    ask: ['What was the weather like?', 'How was the weather?', 'How was the weather that {day}?'],
    answer: 'It was {a weather} {day}.',
    keys: ['weather'],
  },
  {
    kind: 'end',
    ask: ['How did {hero} feel at the end?', 'How did {hero} feel in the end?'],
    answer: 'In the end, {hero} felt {good}.',
    keys: ['good'],
  },
  {
    kind: 'pspecies',
    ask: ['What animal is {helper}?', 'What kind of animal is {helper}?'],
    answer: '{helper} is {a pspecies}.',
    keys: ['pspecies'],
  },
  {
    kind: 'fspecies',
    ask: ['What animal is {friend}?', 'What kind of animal is {friend}?'],
    answer: '{friend} is {a fspecies}.',
    keys: ['fspecies'],
  },
  {
    kind: 'moral',
    ask: ['What did {hero} learn?', 'What does the story teach?'],
    answer: '{hero} learned that {moral}.',
    keys: ['moral'],
  },
];

/** Tells one story. */
export function tellStory(random: Random, split: Split): Story {
  const plot = random.pick(PLOTS);
  const cast = pickCast(random, split);
  const ally = plot.ally === 'helper' ? cast.helper : cast.friend;
  const facts: Slots = { ...cast, ally: ally ?? '', moral: random.pick(plot.morals) };

  const closings = plot.keepsThing ? [...CLOSINGS, ...CLOSINGS_WITH_THING] : CLOSINGS;
  const beats = [OPENINGS, HABITS, ...plot.beats, BREAK, CALLBACKS, closings];
  const told = new Set<string>();
  const sentences = beats.map((beat) => expand(random.pick(beat), facts, random, told));
  for (const slot of [...told]) for (const implied of IMPLIED[slot] ?? []) told.add(implied);
  if (told.has('colour') && told.has('thing')) told.add('ct');
  return { text: tidy(sentences.join(' ')), plot, facts, told };
}

/** The weather is told once and by the way, so it is asked about more often. */
const HARD = new Set(['when', 'weather']);

/** Some questions about a story, no kind twice. */
export function pickQuestions(story: Story, random: Random, count: number): Question[] {
  const all = askAbout(story, random).flatMap((question) =>
    Array<Question>(HARD.has(question.kind) ? 2 : 1).fill(question),
  );
  return [...new Set(random.sample(all, count))];
}

/** All questions that the story answers, each in one random wording. */
export function askAbout(story: Story, random: Random): Question[] {
  const questions: Question[] = [];
  for (const template of [...COMMON_QUESTIONS, ...story.plot.questions]) {
    const ask = random.pick(template.ask);
    const needed = [...slotsOf(ask), ...slotsOf(template.answer)].filter((slot) => !PRONOUNS.has(slot));
    if (!needed.every((slot) => story.told.has(slot))) continue;
    questions.push({
      kind: template.kind,
      question: expand(ask, story.facts, random),
      answer: expand(template.answer, story.facts, random),
      keys: template.keys.map((key) => story.facts[key] as string),
    });
  }
  return questions;
}

const PRONOUNS = new Set(['he', 'him', 'his', 'fhe', 'fhim', 'fhis', 'phe', 'phim', 'phis']);

/** Sentences start with a capital, and paragraphs stand apart. */
export function tidy(text: string): string {
  return text
    .replace(/\s*\n\n\s*/g, '\n\n')
    .replace(/ +/g, ' ')
    .trim();
}
