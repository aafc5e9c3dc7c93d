import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { listDays } from '../scripts/checkpoint.mjs';
import { compare } from '../scripts/days.mjs';
import type { Replacement } from './days/format';

// `npm run checkpoint` and `npm run progress` for a learner whose files are broken in this way or that. What the checkpoints
// think of right and wrong answers is in days.test.ts.

const ROOT = resolve(import.meta.dirname, '..');
const files = compare(ROOT);

interface Result {
  code: number;
  output: string;
}

function node(args: string[], env: Record<string, string> = {}): Promise<Result> {
  const { VITEST, NODE_OPTIONS, CI, ...own } = process.env;
  const child = spawn(process.execPath, args, { cwd: ROOT, env: { ...own, NO_COLOR: '1', ...env } });
  let output = '';
  child.stdout.on('data', (data) => (output += data));
  child.stderr.on('data', (data) => (output += data));
  return new Promise((done) => child.on('close', (code) => done({ code: code ?? 1, output })));
}

/**
 * Runs `script` for a learner who has solved some days, apart from the replacements, and touched no other.
 * @returns with `FOLDER` in the output for where the exercises lay
 */
async function learner(script: string, args: string[], solved: number[], wrong: Replacement[] = []): Promise<Result> {
  mkdirSync(join(ROOT, 'dist'), { recursive: true });
  const folder = mkdtempSync(join(ROOT, 'dist/exercises-'));
  try {
    for (const { day, source, exercise, text } of files) {
      const name = exercise.split('/').at(-1) as string;
      let content = solved.includes(day) ? readFileSync(join(ROOT, source), 'utf8') : text;
      for (const [, from, to] of wrong.filter(([file]) => file === name)) {
        expect(content, name).toContain(from);
        content = content.replace(from, () => to);
      }
      writeFileSync(join(folder, name), content);
    }
    const result = await node([`scripts/${script}.mjs`, ...args], { NANOVLLM_EXERCISES: folder });
    return { ...result, output: result.output.replaceAll(relative(ROOT, folder), 'FOLDER') };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const lineOf = (source: string, passage: string) => {
  const text = readFileSync(join(ROOT, source), 'utf8');
  return text.slice(0, text.indexOf(passage)).split('\n').length;
};

const NUM_BLOCKS = 'return Math.ceil(this.numTokens / this.blockSize);';
const LOOP: Replacement = ['sequence.ts', NUM_BLOCKS, 'for (;;);'];

describe('the tasks', () => {
  test("every day's tests are named after the tasks of its files", () => {
    const days = listDays();
    expect(days.map(({ day }) => day)).toEqual([...new Set(files.map(({ day }) => day))].sort());
    for (const { day, tasks } of days) {
      const own = files.filter((file) => file.day === day);
      const marked = own.flatMap(({ text }) => [...text.matchAll(/\/\/ TODO (\d\.\d+) /g)].map(([, task]) => task));
      expect(
        tasks.map(({ task }) => task),
        `day ${day}`,
      ).toEqual([...new Set(marked)].sort());
    }
  });
});

describe('npm run checkpoint', () => {
  test.each([
    [[], /^Say which day or task[\s\S]*npm run checkpoint -- 3\.2 [\s\S]*--solution/],
    [['day3'], /^Say which day or task/],
    [['1', '2'], /^Say which day or task/],
    [['9'], /^There is no day 9\. There are\n\n {2}1 requests, sequences, configuration\n {2}2 /],
    [['1.9'], /^Day 1 has no task 1\.9\. It has\n\n {2}1\.1 Config\n {2}1\.2 SamplingParams\n/],
    [['1', '--timeout', 'long'], /^--timeout must be a number of seconds, got 'long'\.\n$/],
    [['1', '--solved'], /^Unknown option '--solved'/],
  ])('%j is answered with what there is', async (args, message) => {
    const { code, output } = await node(['scripts/checkpoint.mjs', ...args]);
    expect(output).toMatch(message);
    expect(output).not.toContain('    at ');
    expect(code).toBe(1);
  });

  test('one task of a solution', async () => {
    const { code, output } = await node(['scripts/checkpoint.mjs', '1.3', '--solution']);
    expect(output).toMatch(
      /^\nDay 1: the solution in src\/\n\n✓ 1\.3 .*: all \d+ checks pass\n\n\d+ passed, 0 failed\n$/,
    );
    expect(code).toBe(0);
  });

  describe('with files that can not be graded', () => {
    test('a syntax error is shown where it is; tasks in other files are graded', async () => {
      const wrong: Replacement = ['sequence.ts', NUM_BLOCKS, 'return Math.ceil(this.numTokens this.blockSize);'];
      const line = lineOf('src/engine/sequence.ts', NUM_BLOCKS);
      const { code, output } = await learner('checkpoint', ['1'], [1], [wrong]);
      expect(output).toMatch(
        new RegExp(
          `✗ FOLDER/sequence\\.ts can't be loaded: SyntaxError: Expected "\\)" but found "this"\\n` +
            ` +${line} \\|.*this\\.numTokens this\\.blockSize.*\\n +\\^\\n +at FOLDER/sequence\\.ts:${line}:\\d+\\n`,
        ),
      );
      expect(output).toContain('✓ 1.1 ');
      expect(output).toContain("✗ 1.3 Blocks of a sequence: not graded, because FOLDER/sequence.ts can't be loaded");
      expect(output).toContain('✗ 1.4 States of a sequence: not graded');
      expect(output).toContain('✓ 1.5 ');
      expect(output).toMatch(/\d+ passed, 0 failed; 2 tasks not graded\n$/);
      expect(code).toBe(1);
    });

    test('a file that throws when it is loaded, and another task alone', async () => {
      const wrong: Replacement = [
        'sequence.ts',
        'export class Sequence',
        "throw new Error('too early');\nexport class Sequence",
      ];
      const [day, task] = await Promise.all([
        learner('checkpoint', ['1'], [1], [wrong]),
        learner('checkpoint', ['1.5'], [1], [wrong]),
      ]);
      expect(day.output).toMatch(
        /✗ FOLDER\/sequence\.ts can't be loaded: Error: too early\n +at FOLDER\/sequence\.ts:\d+/,
      );
      expect(day.output).toContain('✗ 1.3 Blocks of a sequence: not graded');
      expect(day.output).toContain('✓ 1.5 ');
      expect(day.code).toBe(1);
      expect(task.output).toMatch(/\n\n✓ 1\.5 .*\n\n\d+ passed, 0 failed\n$/);
      expect(task.code).toBe(0);
    });

    test('a check that never ends is ended and named; the others are graded', async () => {
      const { code, output } = await learner('checkpoint', ['1', '--timeout', '5'], [1], [LOOP]);
      expect(output).toMatch(
        /✗ 1\.3 Blocks of a sequence: '.+' did not end within 5 s: is there a loop that never ends\?\n/,
      );
      for (const task of ['1.1', '1.2', '1.4', '1.5']) expect(output).toContain(`✓ ${task} `);
      expect(output).toMatch(/\d+ passed, 0 failed; 1 task not graded\n$/);
      expect(code).toBe(1);
    });

    test('a task alone that never ends', async () => {
      const { output } = await learner('checkpoint', ['1.3', '--timeout', '5'], [1], [LOOP]);
      expect(output).toMatch(
        /^\nDay 1: .*\n\n✗ 1\.3 .*did not end within 5 s.*\n\nThe lesson: .*\n\n0 passed, 0 failed; 1 task/,
      );
    });

    test('files whose loading never ends are said to be so', async () => {
      const wrong: Replacement = ['sequence.ts', 'export class Sequence', 'for (;;);\nexport class Sequence'];
      const { code, output } = await learner('checkpoint', ['1.1', '--timeout', '5'], [1], [wrong]);
      expect(output).toContain('✗ Loading the files did not end within 5 s: is there a loop that never ends?\n');
      expect(output).toContain('✗ 1.1 Config: not graded\n');
      expect(code).toBe(1);
    });

    test('what the code prints is shown', async () => {
      const wrong: Replacement = ['sequence.ts', NUM_BLOCKS, `console.log('I am here'); ${NUM_BLOCKS}`];
      const { code, output } = await learner('checkpoint', ['1.3'], [1], [wrong]);
      expect(output).toContain('I am here\n');
      expect(code).toBe(0);
    });
  });
});

describe('npm run progress', () => {
  const days = listDays();
  const all = days.flatMap(({ tasks }) => tasks).length;
  const inDay = (day: number) => days.find((other) => other.day === day)?.tasks ?? [];

  test('a table of all days, a bar, and what comes next', async () => {
    const wrong: Replacement[] = [
      ['sequence.ts', NUM_BLOCKS, 'return Math.floor(this.numTokens / this.blockSize);'],
      ['layernorm.ts', 'export class', 'export klass'],
    ];
    const { code, output } = await learner('progress', ['--timeout', '10'], [1, 2, 4], wrong);
    const [first, ...others] = inDay(1).map(({ task }) => task);
    expect(output).toContain(`${inDay(1).length - 1} of ${inDay(1).length}  ✓ ${first}`);
    expect(output).toContain('✗ 1.3');
    for (const task of others.filter((task) => task !== '1.3')) expect(output).toContain(`✓ ${task}`);
    for (const { task } of inDay(3)) expect(output).toContain(`· ${task}`);
    for (const { task } of inDay(4)) expect(output).toContain(`✓ ${task}`);
    expect(output).toContain('✗ 2.2');
    expect(output).toMatch(/✗ FOLDER\/layernorm\.ts can't be loaded: SyntaxError: /);
    expect(output).toMatch(new RegExp(`█{1,39}░+ \\d+ of ${all} tasks done\n`));
    expect(output).toMatch(/Next {4}1\.3 .*\nCheck {3}npm run checkpoint -- 1\.3\nLesson {2}days\/day1\/README\.md\n$/);
    expect(code).toBe(0);
  });

  test('one day, in full; a check that never ends is named', async () => {
    const { code, output } = await learner('progress', ['1', '--timeout', '5'], [1], [LOOP]);
    expect(output).toMatch(/\nDay 1: requests, sequences, configuration\n\n✓ 1\.1 Config +(\d+) of \1 checks pass\n/);
    expect(output).toMatch(/\n✗ 1\.3 .* '.+' did not end within 5 s/);
    expect(output).toContain(`${inDay(1).length - 1} of ${inDay(1).length} tasks done`);
    expect(output).toMatch(/Next {4}1\.3 .*did not end within 5 s/);
    expect(code).toBe(0);
  });

  test('when all is done, the engine is next', async () => {
    const { code, output } = await learner('progress', ['1'], [1]);
    expect(output).toContain(`${'█'.repeat(40)} ${inDay(1).length} of ${inDay(1).length} tasks done`);
    expect(output).toContain('All done. Your code in the engine: npm start -- --learner 1\n');
    expect(code).toBe(0);
  });

  test.each([
    [['9'], /^There is no day 9\. There are/],
    [['1.2'], /^Say nothing more than a day/],
  ])('%j is answered with what there is', async (args, message) => {
    const { code, output } = await node(['scripts/progress.mjs', ...args]);
    expect(output).toMatch(message);
    expect(code).toBe(1);
  });
});
