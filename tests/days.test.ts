import { spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { compare, isEdited, listExercises, toExercise } from '../scripts/days.mjs';
import { findPython } from '../scripts/notebooks.mjs';
import type { DayChecks, Replacement } from './days/format';

const ROOT = resolve(import.meta.dirname, '..');

interface Result {
  code: number;
  output: string;
}

function node(
  args: string[],
  options: { env?: Record<string, string>; input?: string; cwd?: string } = {},
): Promise<Result> {
  // A run under vitest must not hand its own settings on.
  const { VITEST, NODE_OPTIONS, ...env } = process.env;
  const child = spawn(process.execPath, args, { cwd: options.cwd ?? ROOT, env: { ...env, ...options.env } });
  let output = '';
  child.stdout.on('data', (data) => (output += data));
  child.stderr.on('data', (data) => (output += data));
  child.stdin.end(options.input ?? '');
  return new Promise((done) => child.on('close', (code) => done({ code: code ?? 1, output })));
}

describe('the exercises in days/', () => {
  test('are what the generator makes of src/', () => {
    for (const { exercise, status } of compare(ROOT)) {
      // On a learner's machine, work of their own is as it should be; in CI it is a mistake.
      const fine = process.env.CI ? ['current'] : ['current', 'edited'];
      expect(fine, `${exercise}; run \`npm run days\``).toContain(status);
    }
  });

  test('each file of package.json lies where its day says', () => {
    const files = listExercises(ROOT);
    expect(files.length).toBeGreaterThanOrEqual(4);
    for (const { specifier, day, source, exercise } of files) {
      expect(source).toBe(`src/${specifier.slice('#nano/'.length)}.ts`);
      expect(exercise).toMatch(new RegExp(`^days/day${day}/[\\w-]+\\.ts$`));
      expect(exercise.split('/').at(-1)).toBe(source.split('/').at(-1));
    }
  });
});

describe('the generator', () => {
  const file = { specifier: '#nano/a', day: 1, source: 'src/a.ts', exercise: 'days/day1/a.ts' };
  const region = (body: string) => `import { b } from '#nano/b';\n\nexport function a(): number {\n${body}\n}\n`;

  test('replaces a solution by its hints and a throw, and leaves the rest', () => {
    const body = '  // solution 1.2 (1 line)\n  // hint: Think.\n  // hint: Twice.\n  return b + 1;\n  // end solution';
    const [header, ...rest] = toExercise(region(body), file).split('\n');
    expect(header).toMatch(/^\/\/ Exercise made from src\/a\.ts .* \[[0-9a-f]{16}\]$/);
    expect(rest.join('\n')).toBe(
      "import { b } from '#nano/b';\nimport { TodoError } from '#nano/utils/todo';\n\nexport function a(): number {\n" +
        "  // TODO 1.2 (1 line)\n  // Think.\n  // Twice.\n  throw new TodoError('1.2', 'days/day1/a.ts');\n}\n",
    );
  });

  test.each([
    ['  // solution 1.2 (1 line)\n  // hint: x\n  return 1;', /src\/a\.ts: solution 1\.2 has no/],
    ['  // solution 1.2 (1 line)\n  return 1;\n  // end solution', /src\/a\.ts:6: solution 1\.2 needs a hint/],
    [
      '  // solution 2.2 (1 line)\n  // hint: x\n  return 1;\n  // end solution',
      /src\/a\.ts:4: .*2\.2 in a file of day 1/,
    ],
    ['  // solution 1.2 one line\n  return 1;', /src\/a\.ts:4: .*no marker/],
    ['  return 1;\n  // end solution', /src\/a\.ts:5: .*without a solution/],
  ])('refuses a broken marker: %j', (body, message) => {
    expect(() => toExercise(region(body), file)).toThrow(message);
  });

  test('knows an edited file, whatever its line ends', () => {
    const text = toExercise(region('  // solution 1.2 (1 line)\n  // hint: x\n  return b;\n  // end solution'), file);
    expect(isEdited(text)).toBe(false);
    expect(isEdited(text.replaceAll('\n', '\r\n'))).toBe(false);
    expect(isEdited(`${text}// mine\n`)).toBe(true);
    expect(isEdited(text.slice(text.indexOf('\n') + 1))).toBe(true);
  });

  describe('on a copy of the repository', () => {
    let copy: string;
    const days = (args: string[], input?: string) => node(['scripts/days.mjs', '--root', copy, ...args], { input });
    const mine = () => join(copy, 'days/day1/sequence.ts');

    beforeAll(() => {
      copy = mkdtempSync(join(tmpdir(), 'days-'));
      for (const path of ['package.json', ...listExercises(ROOT).map(({ source }) => source)]) {
        cpSync(join(ROOT, path), join(copy, path));
      }
    });
    afterAll(() => rmSync(copy, { recursive: true, force: true }));

    test('writes, keeps what was edited, says what is stale, and resets after asking', async () => {
      expect(await days(['--check'])).toMatchObject({
        code: 1,
        output: expect.stringContaining('sequence.ts is missing'),
      });
      expect(await days([])).toMatchObject({
        code: 0,
        output: expect.stringContaining('written  days/day1/sequence.ts'),
      });
      expect(await days(['--check'])).toMatchObject({ code: 0 });
      const original = readFileSync(mine(), 'utf8');

      // The source changes: an untouched exercise follows, and `--check` had noticed.
      const source = join(copy, 'src/engine/sequence.ts');
      writeFileSync(source, `${readFileSync(source, 'utf8')}\n// A note at the end.\n`);
      expect(await days(['--check'])).toMatchObject({ code: 1, output: expect.stringContaining('is older than') });
      await days([]);
      expect(readFileSync(mine(), 'utf8')).toContain('A note at the end.');
      expect(readFileSync(mine(), 'utf8').split('\n', 1)).not.toEqual(original.split('\n', 1));

      // An edited exercise stays, also when its source has changed since.
      const edited = readFileSync(mine(), 'utf8').replace(/throw new TodoError.*/, 'return 42;');
      writeFileSync(mine(), edited);
      writeFileSync(source, readFileSync(source, 'utf8').replace('A note', 'Another note'));
      const again = await days([]);
      expect(again.output).toContain(
        'kept     days/day1/sequence.ts: you have edited it; note that src/engine/sequence.ts',
      );
      expect(readFileSync(mine(), 'utf8')).toBe(edited);
      expect(await days(['--check'])).toMatchObject({ code: 1, output: expect.stringContaining('edited by hand') });

      // Only a yes throws it away.
      for (const answer of ['', '\n', 'n\n']) {
        expect((await days(['--reset', '1'], answer)).output).toContain('Nothing was changed');
        expect(readFileSync(mine(), 'utf8')).toBe(edited);
      }
      const asked = await days(['--reset', '1'], 'y\n');
      expect(asked.output).toContain('This throws away what you wrote in days/day1/sequence.ts. Go on? (y/N)');
      expect(asked.output).toContain('Day 1 starts again');
      expect(await days(['--check'])).toMatchObject({ code: 0 });

      writeFileSync(mine(), edited);
      expect(await days(['--reset', '1', '--yes'])).toMatchObject({ code: 0 });
      expect(await days(['--check'])).toMatchObject({ code: 0 });
      expect(await days(['--reset'])).toMatchObject({ code: 1, output: expect.stringContaining('Say which day') });
    });
  });
});

type Verdict = 'pass' | 'todo' | 'fail';
type Graded = Result & { tasks: Record<string, Verdict> };

/** At most this many checkpoints run at a time: each is a process of its own, and a busy one. */
const AT_ONCE = 2;
let running = 0;
const waiting: (() => void)[] = [];

/** Runs a day's checkpoint against files made here; what it says of each task, and all it prints. */
async function grade(day: number, fileOf: (exercise: { source: string }) => string): Promise<Graded> {
  mkdirSync(join(ROOT, 'dist'), { recursive: true });
  // Inside the repository, so that #nano/… means its files; under dist, which git ignores.
  const folder = mkdtempSync(join(ROOT, 'dist/exercises-'));
  if (running >= AT_ONCE) await new Promise<void>((go) => waiting.push(go));
  else running++;
  try {
    for (const file of listExercises(ROOT).filter((file) => file.day === day)) {
      writeFileSync(join(folder, file.source.split('/').at(-1) as string), fileOf(file));
    }
    const env = { NANOVLLM_EXERCISES: folder, NO_COLOR: '1' };
    const result = await node(['scripts/checkpoint.mjs', String(day)], { env });
    const verdicts: Record<string, Verdict> = { '✓': 'pass', '·': 'todo', '✗': 'fail' };
    const lines = [...result.output.matchAll(/^([✓·✗]) (\d\.\d) /gm)];
    return { ...result, tasks: Object.fromEntries(lines.map(([, mark, task]) => [task, verdicts[mark]])) };
  } finally {
    const next = waiting.shift();
    if (next) next();
    else running--;
    rmSync(folder, { recursive: true, force: true });
  }
}

const sourceOf = ({ source }: { source: string }) => readFileSync(join(ROOT, source), 'utf8');

/** The solution with passages replaced; each must be there. */
function solutionWith(replacements: readonly Replacement[], files: readonly { source: string }[]) {
  for (const [file] of replacements) {
    const owners = files.filter(({ source }) => source.endsWith(`/${file}`));
    expect(owners, `the files of the day that are called ${file}`).toHaveLength(1);
  }
  return (exercise: { source: string }) => {
    let text = sourceOf(exercise);
    for (const [file, from, to] of replacements) {
      if (!exercise.source.endsWith(`/${file}`)) continue;
      expect(text, `${file} of the solution`).toContain(from);
      text = text.replace(from, () => to);
    }
    return text;
  };
}

const exercises = compare(ROOT);

// Every day that package.json gives files to.
describe.each([...new Set(exercises.map(({ day }) => day))].sort())("day %i's checkpoint", async (day) => {
  const files = exercises.filter((file) => file.day === day);
  const data = join(ROOT, `tests/days/day${day}.ts`);
  const { tasks, mistakes, alternatives }: DayChecks = existsSync(data)
    ? (await import(data))[`day${day}`]
    : { tasks: [], mistakes: [], alternatives: [] };
  const all = (verdict: Verdict) => Object.fromEntries(tasks.map((task) => [task, verdict]));

  test('has wrong and right solutions to grade, and they know its tasks', () => {
    expect(existsSync(data), `tests/days/day${day}.ts, which every day of package.json must have`).toBe(true);
    const found = files.flatMap(({ text }) => [...text.matchAll(/\/\/ TODO (\d\.\d) /g)].map(([, task]) => task));
    expect(tasks, 'the tasks of its data, and those in its files').toEqual([...new Set(found)].sort());
    expect(mistakes.length, 'sets of mistakes').toBeGreaterThanOrEqual(3);
  });

  describe.concurrent('graded', () => {
    test('passes with the solution', async () => {
      const result = await grade(day, sourceOf);
      expect(result.tasks, result.output).toEqual(all('pass'));
      expect(result.code).toBe(0);
    });

    test('calls untouched exercises to do, and says where to go on', async () => {
      const result = await grade(day, ({ source }) => files.find((file) => file.source === source)?.text ?? '');
      expect(result.tasks, result.output).toEqual(all('todo'));
      expect(result.code).toBe(1);
      for (const task of tasks) {
        // A task in several files is told by the first that is met.
        const places = files.filter(({ text }) => text.includes(`// TODO ${task} `)).map(({ exercise }) => exercise);
        const advice = (file: string) =>
          `Task ${task} is not written yet. Write it in ${file} (look for "TODO ${task}"); ` +
          `the lesson is days/day${day}/README.md, and \`npm run checkpoint -- ${task}\` tests it.`;
        const told = places.some((file) => result.output.includes(advice(file)));
        expect(told, `advice for task ${task}, in ${places.join(' or ')}:\n${result.output}`).toBe(true);
      }
    });

    // One mistake a task and run; each must fail its own task.
    test.each(mistakes.map((set, i) => [i + 1, set] as const))(
      'finds the mistakes of set %i, each in its task',
      async (_, set) => {
        const result = await grade(day, solutionWith(set, files));
        expect(result.tasks, result.output).toEqual(all('fail'));
        expect(result.code).toBe(1);
      },
    );

    test('passes other ways of writing it', async () => {
      const result = await grade(day, solutionWith(alternatives, files));
      expect(result.tasks, result.output).toEqual(all('pass'));
    });

    if (day === 1) {
      test('says what was expected, what came and where', async () => {
        const { output } = await grade(1, solutionWith([mistakes[0][2]], files));
        expect(output).toContain('✗ 1.3 Blocks of a sequence');
        expect(output).toMatch(/numBlocks of 16 tokens in blocks of 16\s+expected {2}1\s+got {7}2\s/);
        expect(output).toContain('✓ 1.4 ');
        expect(output).toContain('The lesson: days/day1/README.md');
      });
    }
  });
});

describe('#nano/… is the exercise under the condition of its day, and src/ otherwise', () => {
  // (Vitest's own resolution is what the checkpoint runs above stand on.)
  const WHERE = `import { Sequence } from 'nano-vllm-ts';
    try { new Sequence([1], {}, 16).block(-1); } catch (error) { console.log(error.stack); }`;
  const run = (conditions: string[]) => node([...conditions, '--input-type=module', '-e', WHERE]);

  test('in Node, on the built package, as --learner runs it', async () => {
    expect(existsSync(join(ROOT, 'dist/days/day1/sequence.js')), '`npm run build` comes first').toBe(true);
    expect((await run([])).output).toContain('dist/src/engine/sequence.js');
    const learner = (await run(['--conditions=day1'])).output;
    expect(learner).toContain('dist/days/day1/sequence.js');
    expect(learner).not.toContain('dist/src/engine/sequence.js');
  });

  test('in the TypeScript compiler, which also finds the untouched exercises well typed', async () => {
    const result = await node(['node_modules/typescript/bin/tsc', '-p', 'days', '--listFiles']);
    for (const { source, exercise } of listExercises(ROOT)) {
      expect(result.output).toContain(`/${exercise}\n`);
      expect(result.output).not.toContain(`/${source}\n`);
    }
    if (!compare(ROOT).some(({ status }) => status === 'edited'))
      expect(result, result.output).toMatchObject({ code: 0 });
  });

  test('in a notebook, with `--learner`', async (context) => {
    if (!findPython('nbformat', 'nbclient', 'jupyter_client')) {
      context.skip('no Python here has nbclient, which runs notebooks (Debian: python3-nbclient)');
    }
    // In the repository, or else the notebook would not find the package.
    const folder = mkdtempSync(join(ROOT, 'dist/notebook-'));
    const file = join(folder, 'where.ipynb');
    const cell = (source: string) => ({
      cell_type: 'code',
      id: 'where',
      metadata: {},
      execution_count: null,
      outputs: [],
      source,
    });
    const kernelspec = { display_name: 'TypeScript', language: 'typescript', name: 'tslab' };
    const check = `if (!stack.includes(process.env.EXPECTED)) throw new Error(stack);`;
    const source = `${WHERE.replace('console.log(error.stack)', 'stack = error.stack')}\n${check}`.replace(
      ';',
      "; let stack = '';",
    );
    writeFileSync(
      file,
      JSON.stringify({ cells: [cell(source)], metadata: { kernelspec }, nbformat: 4, nbformat_minor: 5 }),
    );
    const notebook = (args: string[], EXPECTED: string) =>
      node(['scripts/notebooks.mjs', '--check', file, ...args], { env: { EXPECTED } });
    try {
      // The second runs without the learner's files, so what it expects is not so: it must fail, and show its cell.
      const [learner, without] = await Promise.all([
        notebook(['--learner', '1'], 'dist/days/day1/sequence.js'),
        notebook([], 'dist/days/day1/sequence.js'),
      ]);
      expect(learner.code, learner.output).toBe(0);
      expect(without.code).toBe(1);
      expect(without.output).toContain('Cell where:');
      expect(without.output).toContain('RangeError: Block -1 does not exist');
      expect(without.output).toContain('dist/src/engine/sequence.js');
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
