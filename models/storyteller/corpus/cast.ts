import { expand, type Slots } from './grammar.js';
import * as props from './props.js';
import { hash, type Random } from './random.js';
import * as words from './words.js';

export type Split = 'train' | 'heldout';

interface Character {
  name: string;
  species: string;
  pronouns: readonly [subject: string, object: string, possessive: string];
}

const SHE = ['she', 'her', 'her'] as const;
const HE = ['he', 'him', 'his'] as const;

/** One in ten combinations of hero, home and thing is never trained on. */
export function isHeldOut(hero: string, home: string, thing: string): boolean {
  return hash(`${hero}|${home}|${thing}`) % 10 === 0;
}

/** Some names are made up on the spot, so that a name must be read, not known. */
function inventName(random: Random, she: boolean): string {
  const starts = ['B', 'Br', 'D', 'F', 'Fl', 'G', 'K', 'L', 'M', 'N', 'P', 'Pr', 'R', 'S', 'T', 'Tr', 'V', 'W', 'Z'];
  const middles = ['l', 'm', 'n', 'r', 'ff', 'bb', 'd', 'st', 'nd', 'lm', 'v', 'z', 'sh', 'k'];
  const vowels = ['a', 'e', 'i', 'o', 'u'];
  const syllable = random.pick(starts) + random.pick(vowels) + random.pick(middles);
  const more = random.chance(0.2) ? random.pick(vowels) + random.pick(middles) : '';
  return syllable + more + (she ? random.pick(['a', 'ie', 'y', 'ina']) : random.pick(['o', 'us', 'in', 'ert']));
}

/** Hero, friend and helper, with different names and species. */
function pickCharacters(random: Random, inventedShare: number): Character[] {
  const species = random.sample(words.SPECIES, 3);
  return [words.HERO_NAMES, words.FRIEND_NAMES, words.HELPER_NAMES].map((names, role) => {
    const she = random.chance(0.5);
    const name = random.chance(inventedShare) ? inventName(random, she) : random.pick(she ? names.she : names.he);
    return { name, species: species[role] as string, pronouns: she ? SHE : HE };
  });
}

/** Draws everything a story may need. Plots then use what they like of it. */
export function pickCast(random: Random, split: Split): Slots {
  const heldOut = split === 'heldout';
  let characters: Character[];
  let home: string;
  let thing: string;
  do {
    characters = pickCharacters(random, heldOut ? 0 : 0.1);
    home = random.pick(words.HOMES);
    thing = random.pick(words.THINGS);
  } while (isHeldOut((characters[0] as Character).name, home, thing) !== heldOut);

  const [hero, friend, helper] = characters as [Character, Character, Character];
  const colour = random.pick(words.COLOURS);
  const [spot, spot1, spot2] = random.sample(words.SPOTS, 3) as [string, string, string];
  const [junk1, junk2] = random.sample(words.JUNK, 2) as [string, string];
  const [job, jobbed] = random.pick(props.JOBS) as [string, string];
  const [fear, challenge] = random.pick(props.FEARS) as [string, string];
  const [trick, tricked] = random.pick(props.TRICKS) as [string, string];
  const [advice, advised] = random.pick(props.ADVICE) as [string, string];
  const [obstacle, block, try1, try2, fixed] = random.pick(props.OBSTACLES) as [string, string, string, string, string];
  const one = (table: string[][]): string => random.pick(table)[0] as string;

  const slots: Record<string, string> = {
    hero: hero.name,
    species: hero.species,
    he: hero.pronouns[0],
    him: hero.pronouns[1],
    his: hero.pronouns[2],
    himself: `${hero.pronouns[1]}self`,
    friend: friend.name,
    fspecies: friend.species,
    fhe: friend.pronouns[0],
    fhim: friend.pronouns[1],
    fhis: friend.pronouns[2],
    helper: helper.name,
    pspecies: helper.species,
    phe: helper.pronouns[0],
    phim: helper.pronouns[1],
    phis: helper.pronouns[2],
    adj: random.pick(words.ADJECTIVES),
    home,
    thing,
    colour,
    ct: `${colour} ${thing}`,
    spot,
    spot1,
    spot2,
    junk1,
    junk2,
    job,
    jobbed,
    fear,
    challenge,
    trick,
    tricked,
    advice,
    advised,
    obstacle,
    block,
    try1,
    try2,
    fixed,
    habit: random.pick(words.HABITS),
    part: random.pick(words.DAY_PARTS),
    weather: random.pick(words.WEATHERS),
    day: random.pick(words.DAY_PARTS),
    good: random.pick(words.GOOD_FEELINGS),
    bad: random.pick(words.BAD_FEELINGS),
    giver: random.pick(words.GIVERS),
    neighbour: random.pick(words.NEIGHBOURS),
    source: one(props.SOURCES),
    stuff: one(props.STUFF),
    reason: one(props.REASONS),
    material: one(props.MATERIALS),
    sound: one(props.SOUNDS),
    trap: one(props.TRAPS),
    rescued: one(props.RESCUES),
    race: one(props.RACES),
    trouble: one(props.TROUBLES),
  };
  slots.cause = expand(one(props.QUARRELS), slots, random);
  return slots;
}

/** The slots that a slot's text contains, so that telling the one tells the other. */
export const IMPLIED: Readonly<Record<string, readonly string[]>> = {
  ct: ['colour', 'thing'],
  block: ['obstacle'],
  trick: ['tricked'],
  tricked: ['trick'],
  job: ['jobbed'],
};
