// Grades your exercises: `npm run checkpoint -- 1` (a day), `-- 1.3` (a task), `-- 1 --solution` (the same tests
// against src/, to see them pass).
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const args = process.argv.slice(2);
const solution = args.includes('--solution');
const [, day, task] = /^([1-7])(?:\.(\d))?$/.exec(args.find((arg) => !arg.startsWith('-')) ?? '') ?? [];

const strangers = args.filter((arg) => arg !== '--solution' && arg !== (task ? `${day}.${task}` : day));
if (!day || strangers.length > 0) {
  fail('Say which day or task to check, such as: npm run checkpoint -- 1   npm run checkpoint -- 1.3 --solution');
}
if (!existsSync(join(root, `days/day${day}/checkpoint.test.ts`))) fail(`Day ${day} has no checkpoint yet.`);

const { status } = spawnSync(
  process.execPath,
  [
    'node_modules/vitest/vitest.mjs',
    'run',
    '--reporter=./scripts/checkpoint-reporter.mjs',
    ...(task ? ['--testNamePattern', `^\\s*${day}\\.${task}\\s`] : []),
  ],
  {
    cwd: root,
    stdio: 'inherit',
    env: {
      ...process.env,
      NANOVLLM_CHECKPOINT: day,
      NANOVLLM_CONDITIONS: solution ? '' : `day${day}`,
      NANOVLLM_CHECKPOINT_OF: solution ? 'the solution in src/' : `your files in days/day${day}/`,
    },
  },
);
process.exitCode = status ?? 1;

function fail(message) {
  console.error(message);
  process.exit(1);
}
