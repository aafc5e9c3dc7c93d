import { COLOURS, SPECIES, THINGS } from './words.js';

export interface Verdict {
  ok: boolean;
  problems: string[];
  hero?: string;
}

const oneOf = (list: readonly string[]): string => [...list].sort((a, b) => b.length - a.length).join('|');
const ANIMAL = `(${oneOf(SPECIES)})`;
const NAME = '([A-Z][a-z]+)';

/** Every way in which the grammar says "X is a fox"; each captures a name and a species, in either order. */
const PAIRS: readonly (readonly [pattern: RegExp, nameFirst: boolean])[] = [
  [new RegExp(`\\b${ANIMAL} (?:named|called) ${NAME}`, 'g'), false],
  [new RegExp(`\\b${ANIMAL}\\. (?:His|Her) name was ${NAME}`, 'g'), false],
  [new RegExp(`\\b${NAME} the ${ANIMAL}\\b`, 'g'), true],
  [new RegExp(`\\b${NAME}(?: was|,) an? (?:\\w+ )?${ANIMAL}\\b`, 'g'), true],
];

const HERO = [new RegExp(`(?:named|called|name was|story of) ${NAME}`), new RegExp(`^(?!There )${NAME} was`)];

const CLOSING = /from that day on|that is how|never forgot|ever after|to this day|fell asleep/i;

/**
 * Judges a story by rules alone: is it whole, do names and animals stay what they were, does the thing that matters
 * keep its colour and return at the end, and does the last sentence close the story? It cannot judge beauty.
 */
export function checkStory(text: string): Verdict {
  const story = text.trim();
  const problems: string[] = [];
  const opening = story.split('\n')[0] ?? '';
  const found = HERO.map((pattern) => opening.match(pattern)).filter(
    (match): match is RegExpMatchArray => match !== null,
  );
  const hero = found.sort((a, b) => (a.index ?? 0) - (b.index ?? 0))[0]?.[1];
  if (!hero) return { ok: false, problems: ['no hero is named in the opening'] };

  const species = new Map<string, string>();
  for (const [pattern, nameFirst] of PAIRS) {
    for (const match of story.matchAll(pattern)) {
      const [name, animal] = (nameFirst ? [match[1], match[2]] : [match[2], match[1]]) as [string, string];
      const before = species.get(name);
      if (before && before !== animal) problems.push(`${name} is ${before} and ${animal}`);
      species.set(name, animal);
    }
  }
  if (!species.has(hero)) problems.push(`${hero} has no species`);

  // A capital inside a sentence is a name, and a name must have been introduced.
  for (const match of story.matchAll(/[a-z,;] ([A-Z][a-z]+)\b/g)) {
    const name = match[1] as string;
    if (!species.has(name)) problems.push(`${name} was never introduced`);
  }

  const last = story.split(/\n\n/).at(-1) ?? '';
  if (!/[.!?"]$/.test(story)) problems.push('the last sentence is unfinished');
  if (!CLOSING.test(last)) problems.push('no closing sentence');
  if (!last.includes(hero)) problems.push(`${hero} is missing at the end`);

  const things = [...story.matchAll(new RegExp(`\\b(${COLOURS.join('|')}) (${oneOf(THINGS)})\\b`, 'g'))];
  const kinds = new Set(things.map((match) => match[0]));
  if (kinds.size === 0) problems.push('nothing is wanted');
  if (kinds.size > 1) problems.push(`the thing changes: ${[...kinds].join(', ')}`);
  const thing = things[0]?.[2];
  if (thing && story.lastIndexOf(thing) < story.length * 0.55) problems.push(`what became of the ${thing}?`);
  if (new Set(sentences(story)).size < sentences(story).length) problems.push('a sentence is repeated');
  return { ok: problems.length === 0, problems, hero };
}

function sentences(story: string): string[] {
  return story.split(/(?<=[.!?]"?)\s+/).filter((sentence) => sentence.length > 30);
}
