// Runs the tests of a checkpoint once, for scripts/checkpoint.mjs, which starts it as a process of its own so that it can end
// it: sends which check begins, and the results. Tests are named after their tasks: describe('1.3 …', () => test('…')).
import { relative } from 'node:path';
import { BroadcastChannel } from 'node:worker_threads';
import { startVitest } from 'vitest/node';

const [testNamePattern, patience] = process.argv.slice(2); // the latter in seconds
process.once('disconnect', () => process.exit(1)); // whoever started it is gone

const taskOf = (suite) => suite.split(' ')[0];
const sent = [];
const send = (message) => sent.push(new Promise((done) => process.send(message, done)));

const reporter = {
  onUserConsoleLog: ({ content }) => process.stdout.write(content),
  onTestRunEnd(modules, unhandled) {
    const tests = modules
      .flatMap((module) => [...module.children.allTests()])
      .filter((test) => ['passed', 'failed'].includes(test.result().state))
      .map((test) => ({
        task: taskOf(test.parent.name),
        check: test.name,
        errors: (test.result().errors ?? []).map(essence),
      }));
    const loading = modules.flatMap((module) => module.errors());
    send({ results: { tests, loading: loading.map(essence), uncaught: unhandled.map(essence) } });
  },
};

/** What can be said of an error between processes; `at` is the learner's line that it passed through. */
function essence({ name, message, task, file, actual, expected, stacks = [] }) {
  const lines = stacks.map(({ file, line }) => `${relative(process.cwd(), file)}:${line}`);
  const at =
    lines.find((line) => /^(days|dist)\/.*(?<!\.test)\.ts:/.test(line)) ??
    lines.find((line) => line.startsWith('days/'));
  return { name, message, task, file, actual, expected, at };
}

const channel = new BroadcastChannel('checkpoint');
channel.onmessage = ({ data }) => send(data);
const vitest = await startVitest('test', [], {
  watch: false,
  pool: 'threads', // they end with their process, also in the middle of an endless loop
  reporters: [reporter],
  setupFiles: ['./scripts/checkpoint-watch.mjs'],
  testNamePattern,
  testTimeout: 1000 * Number(patience),
});
await vitest.close();
await Promise.all(sent);
process.exit();
