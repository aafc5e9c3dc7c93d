#!/usr/bin/env node
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { helpText, parseArguments } from '#nano/cli/arguments';
import { chat } from '#nano/cli/chat';
import { runAsLearner } from '#nano/cli/learner';
import { NanoVllmError } from '#nano/errors';
import { LLM } from '#nano/llm';

const BUNDLED_MODEL = fileURLToPath(new URL('../../models/storyteller', import.meta.url));

async function main(argv: string[]): Promise<void> {
  const args = parseArguments(argv);
  if (args.help) {
    process.stdout.write(helpText());
    return;
  }
  if (args.learner) {
    process.exitCode = runAsLearner(args.learner, argv);
    return;
  }
  const seed = args.config.seed ?? Math.floor(Math.random() * 2 ** 31);
  const started = performance.now();
  const llm = await LLM.load(args.model ?? BUNDLED_MODEL, { ...args.config, seed });
  const endProfile = args.profile === undefined ? undefined : llm.startProfile();
  const loadSeconds = (performance.now() - started) / 1000;
  try {
    if (args.chat) await chat(llm, args);
    else await complete(llm, args.prompt, { maxTokens: 512, ...args.sampling });
    if (endProfile && args.profile) writeFileSync(args.profile, JSON.stringify(endProfile()));
    const stats = llm.stats();
    process.stderr.write(
      `\n[${stats.backend}${stats.ranks.length > 1 ? ` · ${stats.ranks.length} ranks` : ''} · ${stats.dtype} · attention ${stats.attnBackend} · loaded in ${loadSeconds.toFixed(2)} s · ` +
        `prefill ${stats.prefillTokensPerSecond.toFixed(0)} tok/s · decode ${stats.decodeTokensPerSecond.toFixed(0)} tok/s · ` +
        `${stats.generatedTokens} tokens · --seed ${seed}]\n`,
    );
  } finally {
    await llm.close();
  }
}

/** Streams the continuation of a prompt; without one, asks the model for a story. */
async function complete(llm: LLM, prompt: string | undefined, sampling: object): Promise<void> {
  const input = prompt ?? llm.chatPrompt([{ role: 'user', content: 'Tell me a story.' }]);
  if (prompt) process.stdout.write(prompt);
  try {
    for await (const { text } of llm.stream(input, sampling)) process.stdout.write(text);
  } finally {
    process.stdout.write('\n'); // an error's message begins on a line of its own
  }
}

main(process.argv.slice(2)).catch((error: unknown) => {
  // A mistake of the caller gets its message; anything else is a bug, and its stack says where.
  const text = error instanceof NanoVllmError ? `${error.name}: ${error.message}` : (error as Error).stack;
  process.stderr.write(`${text}\n`);
  process.exitCode = 1;
});
