/**
 * How good is the storyteller? Asks it about stories it never saw, then reads stories of its own.
 *
 *   npm run storyteller:evaluate -- [--questions 100] [--stories 50] [--seed 2026] [--backend auto] [--show]
 *
 * The stories asked about are fresh (any seed gives new ones) and about combinations of hero, home and thing that
 * training left out. One question is drawn for each story, of any kind; an answer is right if it holds every key word
 * of the true one.
 */
import { parseArgs } from 'node:util';
import { LLM } from 'nano-vllm-ts';
import { checkStory, heldOutStories, Random, readAndAnswer } from './corpus/index.js';

const { values } = parseArgs({
  options: {
    questions: { type: 'string', default: '100' },
    stories: { type: 'string', default: '50' },
    seed: { type: 'string', default: '2026' },
    backend: { type: 'string', default: 'auto' },
    model: { type: 'string', default: 'models/storyteller' },
    show: { type: 'boolean', default: false },
  },
});
const seed = Number(values.seed);
const percent = (part: number, whole: number): string => `${part} of ${whole} (${((100 * part) / whole).toFixed(1)} %)`;

const backend = values.backend as 'auto';
const llm = await LLM.load(values.model, { backend });

/** One user message, as the chat template writes it, up to where the assistant begins. */
function chat(content: string): string {
  return llm.tokenizer.applyChatTemplate([{ role: 'user', content }], { addGenerationPrompt: true });
}

async function answerQuestions(count: number): Promise<void> {
  const random = new Random(seed, 1);
  const asked = heldOutStories(seed, count).map(({ story, plot, questions }) => ({
    story,
    plot,
    ...random.pick(questions),
  }));
  const prompts = asked.map(({ story, question }) => chat(readAndAnswer(story, question)));
  const outs = await llm.generate(prompts, { temperature: 0, maxTokens: 40 });

  let right = 0;
  const byKind = new Map<string, { right: number; asked: number }>();
  asked.forEach(({ plot, kind, question, answer, accept }, i) => {
    const text = outs[i]?.text.trim() ?? '';
    const ok = accept(text);
    const tally = byKind.get(kind) ?? { right: 0, asked: 0 };
    byKind.set(kind, { right: tally.right + Number(ok), asked: tally.asked + 1 });
    if (ok) right++;
    if (!ok || values.show)
      console.log(`${ok ? 'right' : 'WRONG'}  [${plot}/${kind}] ${question} -> ${text}  (${answer})`);
  });
  console.log(`questions answered right, all kinds: ${percent(right, asked.length)}`);
  for (const [kind, tally] of byKind) {
    if (tally.right < tally.asked) console.log(`  of these "${kind}": ${percent(tally.right, tally.asked)}`);
  }
}

async function tellStories(count: number): Promise<void> {
  const heldOut = heldOutStories(seed + 1, count);
  const wanted = heldOut.map(({ facts }) => [facts.hero, facts.species, facts.ct].map(String));
  const prompts = wanted.map(([hero, species, thing], i) =>
    i % 2 === 0 ? 'Once upon a time' : chat(`Tell me a story about ${hero} the ${species} and the ${thing}.`),
  );
  const outs = await llm.generate(prompts, { temperature: 0.7, topP: 0.9, maxTokens: 400 });

  let coherent = 0;
  let honoured = 0;
  prompts.forEach((prompt, i) => {
    const story = (i % 2 === 0 ? prompt : '') + (outs[i]?.text ?? '');
    const { ok, problems } = checkStory(story);
    if (ok) coherent++;
    if (i % 2 === 1 && wanted[i]?.every((word) => story.includes(word))) honoured++;
    if (!ok || values.show) console.log(`${ok ? 'coherent' : problems.join('; ')}\n${story}\n`);
  });
  console.log(`coherent stories: ${percent(coherent, count)}`);
  console.log(`requests honoured: ${percent(honoured, Math.floor(count / 2))}`);
}

try {
  await answerQuestions(Number(values.questions));
  await tellStories(Number(values.stories));
} finally {
  await llm.close();
}
