// Rank 0 of two GPUs, busy until somebody ends it: prints the pid of the other rank when tokens come.
import { readdirSync, readFileSync } from 'node:fs';
import { LLM } from 'nano-vllm-ts';

const [model] = process.argv.slice(2);
const llm = await LLM.load(model, { backend: 'cuda', tensorParallelSize: 2 });
const children = readdirSync('/proc/self/task').flatMap((task) =>
  readFileSync(`/proc/self/task/${task}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number),
);
let told = false;
while (true) {
  for await (const _ of llm.stream('Once upon a time', { maxTokens: 400, ignoreEos: true })) {
    if (!told) console.log(JSON.stringify(children));
    told = true;
  }
}
