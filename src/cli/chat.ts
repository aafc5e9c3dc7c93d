import { createInterface } from 'node:readline/promises';
import type { Arguments } from '#nano/cli/arguments';
import type { LLM } from '#nano/llm';
import type { ChatMessage } from '#nano/utils/chat-template';

/**
 * A conversation in the terminal. Each turn sends the whole conversation again; prefix caching makes
 * that cheap, since only the new turn has to be computed.
 */
export async function chat(llm: LLM, args: Arguments): Promise<void> {
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  const messages: ChatMessage[] = args.system ? [{ role: 'system', content: args.system }] : [];
  process.stderr.write('Type a message; an empty line or Ctrl-D ends the conversation.\n');
  terminal.setPrompt('you> ');
  terminal.prompt();
  for await (const line of terminal) {
    if (line.trim() === '') break;
    messages.push({ role: 'user', content: line });
    messages.push({ role: 'assistant', content: await answer(llm, messages, args) });
    terminal.prompt();
  }
  terminal.close();
}

async function answer(llm: LLM, messages: readonly ChatMessage[], args: Arguments): Promise<string> {
  const { enableThinking, sampling } = args;
  const prompt = llm.chatPrompt(messages, { enableThinking });
  let reply = '';
  process.stdout.write('model> ');
  for await (const { text } of llm.stream(prompt, { maxTokens: 512, ...sampling })) {
    process.stdout.write(text);
    reply += text;
  }
  process.stdout.write('\n');
  return reply;
}
