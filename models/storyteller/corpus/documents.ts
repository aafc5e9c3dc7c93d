import type { Split } from './cast.js';
import { expand, slotsOf } from './grammar.js';
import type { Random } from './random.js';
import { pickQuestions, type Question, type Story, tellStory } from './story.js';

export interface Message {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

const SYSTEM = [
  'You are a storyteller.',
  'You are a friendly storyteller.',
  'You tell short stories and answer questions.',
  'You are a helpful assistant.',
];

/** Each ends "a story"; what it should be about follows. */
const REQUESTS = [
  'Tell me a [|short |little |bedtime ]story{about}.',
  'Please tell me a [|short |little ]story{about}.',
  'Can you tell me a [|short |bedtime ]story{about}?',
  'Write a [|short ]story{about}.',
  'Please write a story{about}.',
  'I would like a [|bedtime ]story{about}[|, please].',
  'Make up a [|little ]story{about}.',
  'A story{about}, please[.|!]',
  'Could you write a [|short ]story{about}?',
  'Tell a story{about}',
];

const ABOUT = [
  ' about {hero}',
  ' about {hero} the {species}',
  ' about {a species} named {hero}',
  ' about {a species}',
  ' about {a adj} {species}',
  ' about {a ct}',
  ' about {a thing}',
  ' about {hero} and {a ct}',
  ' about {hero} the {species} and {a ct}',
  ' about {a species} and {a thing}',
  ' about {a species} who lives {home}',
  ' that takes place {home}',
  ' about {hero}, who lives {home}',
  ' about {a species} named {hero} who lives {home}',
  ' with {a ct} in it',
  ' about {hero} the {species}, who lives {home}, and {a ct}',
  ' about {hero} and {helper}',
  ' with {hero} the {species} and {helper} the {pspecies}',
  ' about {hero} the {species} and {friend} the {fspecies}',
  ' about {a species} and {a fspecies}',
  ' set {home}',
];

const SMALL_TALK: readonly (readonly [string, string])[] = [
  ['[Hello|Hi|Hey|Good morning|Hello there][|!|.]', '[Hello!|Hi there!] I tell stories. Would you like to hear one?'],
  [
    'Who are you?',
    'I am a storyteller, a very small language model. I know many animals and one kind of ending: a good one.',
  ],
  ['What can you do?', 'I can tell you a short story, and then answer questions about it.'],
  ['[How are you|How are you today]?', 'I am well, thank you. Shall I tell you a story?'],
  ['What is your name?', 'I have no name of my own. You may call me Storyteller.'],
  ['Are you [a human|a robot|real]?', 'I am a small language model that learned to tell stories.'],
];

const THANKS: readonly (readonly [string, string])[] = [
  [
    '[Thank you|Thanks|Thanks a lot|Thank you very much][!|.|]',
    'You are welcome. Ask me for another story whenever you like.',
  ],
  ['[Good night|Goodbye|Bye|See you][!|.|]', 'Good night! Sleep well.'],
  ['[That was a nice story|I liked that|Lovely|What a nice story][!|.]', 'Thank you. I am glad that you liked it.'],
];

const READ = [
  'Read this story.\n\n{story}\n\nQuestion: {question}',
  'Read this story.\n\n{story}\n\n{question}',
  '{story}\n\nQuestion: {question}',
  '{story}\n\n{question}',
  'Here is a story:\n\n{story}\n\n{question}',
  'Story:\n{story}\n\nQuestion: {question}',
  '{question}\n\n{story}',
];

/** A request which the story honours: it names only what the story tells. */
function request(story: Story, random: Random): string {
  const fits = (about: string): boolean => slotsOf(about).every((slot) => story.told.has(slot));
  const abouts = random.chance(0.25) ? story.plot.themes.map((theme) => ` ${theme}`) : ABOUT;
  const fitting = abouts.filter(fits);
  const about = fitting.length === 0 || random.chance(0.12) ? '' : random.pick(fitting);
  const asked = expand(about, story.facts, random);
  return expand(random.pick(REQUESTS), { about: asked }, random);
}

/** Puts the whole story and a question into one message. */
export function readAndAnswer(story: string, question: string, form = 0): string {
  return (READ[form] as string).replace('{story}', () => story).replace('{question}', () => question);
}

/** Now and then a question is typed carelessly, or put more politely. */
function casually(question: string, random: Random): string {
  if (random.chance(0.8)) return question;
  const lower = question.charAt(0).toLowerCase() + question.slice(1);
  return random.pick([lower, lower.slice(0, -1), question.slice(0, -1), `And ${lower}`, `Please tell me: ${lower}`]);
}

function turns(questions: Question[], random: Random): Message[] {
  return questions.flatMap(({ question, answer }): Message[] => [
    { role: 'user', content: casually(question, random) },
    { role: 'assistant', content: answer },
  ]);
}

function talk(pairs: readonly (readonly [string, string])[], random: Random): Message[] {
  const [user, assistant] = random.pick(pairs);
  return [
    { role: 'user', content: expand(user, {}, random) },
    { role: 'assistant', content: expand(assistant, {}, random) },
  ];
}

/** A request, the story, and up to six questions about it. */
function tellAndAnswer(story: Story, random: Random): Message[] {
  const questions = random.chance(0.15) ? [] : pickQuestions(story, random, 1 + random.below(6));
  return [
    { role: 'user', content: request(story, random) },
    { role: 'assistant', content: story.text },
    ...turns(questions, random),
  ];
}

/** A message with a whole story and a question about it; more questions may follow. */
function readAndAnswerMore(story: Story, random: Random): Message[] {
  const [first, ...rest] = pickQuestions(story, random, 1 + random.below(6)) as [Question, ...Question[]];
  const form = random.chance(0.4) ? 0 : random.below(READ.length);
  return [
    { role: 'user', content: readAndAnswer(story.text, casually(first.question, random), form) },
    { role: 'assistant', content: first.answer },
    ...turns(rest, random),
  ];
}

/** A second story that shares neither a character nor a thing with the first, so that questions stay clear. */
function anotherStory(first: Story, random: Random, split: Split): Story {
  const same = (story: Story): boolean =>
    ['hero', 'friend', 'helper', 'species', 'thing'].some((slot) => story.facts[slot] === first.facts[slot]);
  for (;;) {
    const story = tellStory(random, split);
    if (!same(story)) return story;
  }
}

function chat(random: Random, split: Split): Message[] {
  if (random.chance(0.01)) return talk(SMALL_TALK, random);
  const messages: Message[] = [];
  if (random.chance(0.15)) messages.push({ role: 'system', content: random.pick(SYSTEM) });
  const story = tellStory(random, split);
  if (random.chance(0.45)) messages.push(...readAndAnswerMore(story, random));
  else {
    if (random.chance(0.08)) messages.push(...talk(SMALL_TALK, random));
    messages.push(...tellAndAnswer(story, random));
    if (random.chance(0.15)) messages.push(...tellAndAnswer(anotherStory(story, random, split), random));
  }
  if (random.chance(0.08)) messages.push(...talk(THANKS, random));
  return messages;
}

/** ChatML, as in Qwen's chat template. */
export function chatML(messages: Message[], addGenerationPrompt = false): string {
  const text = messages.map(({ role, content }) => `<|im_start|>${role}\n${content}<|im_end|>\n`).join('');
  return addGenerationPrompt ? `${text}<|im_start|>assistant\n` : text;
}

/** One training document: three in ten are plain stories, the others chats. */
export function makeDocument(random: Random, split: Split): string {
  return random.chance(0.3) ? tellStory(random, split).text : chatML(chat(random, split));
}
