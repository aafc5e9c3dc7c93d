// Writes the exercises in days/ from the engine in src/, so that they can't drift apart. A region such as
//
//     // solution 1.3 (about 4 lines)
//     // hint: Round up.
//     return Math.ceil(this.numTokens / this.blockSize);
//     // end solution
//
// becomes `// TODO 1.3 (about 4 lines)`, the hint, and a throw that names the task. Which file belongs to which
// day is said in one place: the conditions day1 … day7 of `imports` in package.json.
//
//   npm run days                 writes what is missing or out of date; never over your work
//   npm run days -- --check      only says whether all is as it would be written (CI)
//   npm run days:reset -- 1      starts day 1 again, after asking (--yes: without asking)
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const repository = join(dirname(fileURLToPath(import.meta.url)), '..');

/**
 * The files that belong to a day.
 * @returns {{ specifier: string, day: number, source: string, exercise: string }[]} paths from the root
 */
export function listExercises(root = repository) {
  const { imports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  return Object.entries(imports).flatMap(([specifier, conditions]) =>
    Object.keys(conditions)
      .filter((condition) => /^day[1-7]$/.test(condition))
      .map((condition) => ({
        specifier,
        day: Number(condition.slice(3)),
        source: conditions.source.slice(2),
        exercise: conditions[condition].source.slice(2),
      })),
  );
}

/** The exercise, header and all, that the text of a source file gives. */
export function toExercise(text, { day, source, exercise }) {
  const lines = [];
  let region = null;
  normalise(text)
    .split('\n')
    .forEach((line, i) => {
      const fail = (what) => {
        throw new Error(`${source}:${i + 1}: ${what}`);
      };
      const start = /^(\s*)\/\/ solution (\d\.\d+) (\(.*\))$/.exec(line);
      const hint = /^\s*\/\/ hint: (.*)$/.exec(line);
      if (start) {
        if (region) fail('a solution begins inside another');
        if (!start[2].startsWith(`${day}.`)) fail(`solution ${start[2]} in a file of day ${day}`);
        region = { indent: start[1], task: start[2], size: start[3], hints: [], hasBody: false };
      } else if (line.trim() === '// end solution') {
        if (!region) fail('`end solution` without a solution');
        if (!region.hasBody || region.hints.length === 0) fail(`solution ${region.task} needs a hint and a body`);
        lines.push(...todo(region, exercise));
        region = null;
      } else if (region && hint && !region.hasBody) {
        region.hints.push(hint[1]);
      } else if (region) {
        region.hasBody = true;
      } else if (/^\s*\/\/ (solution|hint|end solution)\b/.test(line)) {
        fail(`'${line.trim()}' is no marker I know, or stands outside a solution`);
      } else {
        lines.push(line);
      }
    });
  if (region) throw new Error(`${source}: solution ${region.task} has no \`// end solution\``);
  const body = withImport(lines.join('\n'));
  return `${header(source, body)}\n${body}`;
}

function todo({ indent, task, size, hints }, exercise) {
  return [
    `${indent}// TODO ${task} ${size}`,
    ...hints.map((hint) => `${indent}// ${hint}`),
    `${indent}throw new TodoError('${task}', '${exercise}');`,
  ];
}

/** Adds the import of TodoError in alphabetical order, as the other imports are. */
function withImport(text) {
  const line = "import { TodoError } from '#nano/utils/todo';\n";
  const imports = [...text.matchAll(/^import [^;]*? from '([^']+)';\n/gm)];
  const next = imports.find(([, specifier]) => specifier > '#nano/utils/todo');
  const last = imports.at(-1);
  const at = next ? next.index : last ? last.index + last[0].length : 0;
  return `${text.slice(0, at)}${line}${imports.length === 0 ? '\n' : ''}${text.slice(at)}`;
}

function header(source, body) {
  return `// Exercise made from ${source} by \`npm run days\`, which keeps what you write. [${digest(body)}]`;
}

/** An exercise is untouched while the hash in its first line is that of the rest. */
export function isEdited(text) {
  const [first, ...rest] = normalise(text).split('\n');
  return /\[([0-9a-f]{16})\]$/.exec(first)?.[1] !== digest(rest.join('\n'));
}

const digest = (text) => createHash('sha256').update(text).digest('hex').slice(0, 16);
const normalise = (text) => text.replaceAll('\r\n', '\n');

/**
 * How each exercise on disk compares with what would be written now.
 * @returns {{ day: number, source: string, exercise: string, status: 'current' | 'missing' | 'stale' | 'edited', text: string,
 *   sourceChanged: boolean }[]} sourceChanged: an edited one was begun from an older source
 */
export function compare(root = repository) {
  return listExercises(root).map((file) => {
    const text = toExercise(readFileSync(join(root, file.source), 'utf8'), file);
    const path = join(root, file.exercise);
    const found = existsSync(path) ? normalise(readFileSync(path, 'utf8')) : null;
    const headerOf = (whole) => whole?.split('\n', 1)[0];
    let status = 'stale';
    if (found === null) status = 'missing';
    else if (found === text) status = 'current';
    else if (isEdited(found)) status = 'edited';
    return { ...file, text, status, sourceChanged: status === 'edited' && headerOf(found) !== headerOf(text) };
  });
}

function write(root, { exercise, text }) {
  mkdirSync(dirname(join(root, exercise)), { recursive: true });
  writeFileSync(join(root, exercise), text);
}

function generate(root) {
  for (const file of compare(root)) {
    if (file.status === 'edited') {
      const news = file.sourceChanged ? `; note that ${file.source} has changed since you began` : '';
      console.log(
        `kept     ${file.exercise}: you have edited it${news}. \`npm run days:reset -- ${file.day}\` starts again.`,
      );
    } else if (file.status !== 'current') {
      write(root, file);
      console.log(`written  ${file.exercise}`);
    }
  }
  console.log('The exercises are up to date.');
}

/** @returns {boolean} whether every exercise is as it would be written */
function check(root) {
  const wrong = compare(root).filter(({ status }) => status !== 'current');
  for (const { exercise, source, status } of wrong) {
    const why = { missing: 'is missing', stale: `is older than ${source}`, edited: 'was edited by hand' }[status];
    console.error(`${exercise} ${why}.`);
  }
  if (wrong.length > 0) console.error('Run `npm run days`, or `npm run days:reset -- DAY` for an edited one.');
  return wrong.length === 0;
}

async function reset(root, day, yes) {
  const files = compare(root).filter((file) => file.day === day);
  if (files.length === 0) throw new Error(`Day ${day} has no exercises.`);
  const edited = files.filter(({ status }) => status === 'edited').map(({ exercise }) => exercise);
  const question = `This throws away what you wrote in ${edited.join(', ')}. Go on?`;
  if (edited.length > 0 && !yes && !(await confirm(question))) {
    console.log('Nothing was changed.');
    return;
  }
  for (const file of files) write(root, file);
  console.log(`Day ${day} starts again: ${files.map(({ exercise }) => exercise).join(', ')}`);
}

async function confirm(question) {
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  // Without an answer (end of input) nothing is thrown away.
  const closed = new Promise((done) => terminal.once('close', () => done('')));
  const answer = await Promise.race([terminal.question(`${question} (y/N) `), closed]);
  terminal.close();
  return /^y(es)?$/i.test(answer.trim());
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      check: { type: 'boolean' },
      reset: { type: 'boolean' },
      yes: { type: 'boolean' },
      root: { type: 'string', default: repository },
    },
  });
  if (values.reset) {
    if (positionals.length !== 1 || !/^[1-7]$/.test(positionals[0])) {
      throw new Error('Say which day to start again, such as: npm run days:reset -- 1');
    }
    await reset(values.root, Number(positionals[0]), values.yes);
  } else if (values.check) {
    process.exitCode = check(values.root) ? 0 : 1;
  } else {
    generate(values.root);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  main().catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
}
