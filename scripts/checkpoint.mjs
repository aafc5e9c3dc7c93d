// Grades your exercises: `npm run checkpoint -- 1` (a day), `-- 1.3` (a task), `-- 1 --solution` (the same tests
// against src/, to see them pass).
import { fork } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { printDay } from './checkpoint-reporter.mjs';
import { compare } from './days.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

/** For how many seconds a check may run; it needs far less than one. */
const PATIENCE = 30;

export const TIMEOUT = { type: 'string', default: String(PATIENCE) };

/**
 * The days that have exercises, with the tasks that their tests are named after: describe('1.1 Config', …).
 * @returns {{ day: number, title: string, tasks: { task: string, title: string }[] }[]} no tasks: there are no tests yet
 */
export function listDays() {
  const read = (path) => (existsSync(join(root, path)) ? readFileSync(join(root, path), 'utf8') : '');
  return [...new Set(compare(root).map(({ day }) => day))].sort().map((day) => {
    const [, title = ''] = /^# Day \d: (.*)$/m.exec(read(`days/day${day}/README.md`)) ?? [];
    const tests = read(`days/day${day}/checkpoint.test.ts`);
    const suites = [...tests.matchAll(/^describe\((['"`])(\d\.\d+) (.*?)\1, /gm)];
    return { day, title, tasks: suites.map(([, , task, title]) => ({ task, title })) };
  });
}

/** The files of a day and the tasks in each. They lie elsewhere than in days/ when the course itself is tested. */
function filesOf(day) {
  const elsewhere = process.env.NANOVLLM_EXERCISES;
  return compare(root)
    .filter((file) => file.day === day)
    .map(({ source, exercise, text }) => {
      const name = exercise.split('/').at(-1);
      const path = elsewhere ? relative(root, join(elsewhere, name)) : exercise;
      return { name, source, path, tasks: [...text.matchAll(/\/\/ TODO (\d\.\d+) /g)].map(([, task]) => task) };
    });
}

/**
 * Grades tasks of one day. A file that can't be loaded, or a check that never ends, spoils its own tasks only: the others are
 * graded without them.
 * @param {{ task: string, title: string }[]} tasks
 * @param {{ solution?: boolean, patience?: number, quiet?: boolean }} options quiet: drops what the code under test prints
 * @returns `problems` concern no task alone; `obstacle` says why a task could not be graded
 */
export async function grade(day, tasks, { solution = false, patience = PATIENCE, quiet = false } = {}) {
  const files = filesOf(day);
  /** Which files can't be loaded, and why. */
  const broken = solution ? new Map() : await syntaxErrors(files);
  const obstacles = new Map();
  const nothing = { tests: [], loading: [], uncaught: [], stuck: undefined };
  let found = nothing;
  for (;;) {
    for (const { path, tasks } of broken.keys()) {
      for (const task of tasks) obstacles.set(task, `not graded, because ${path} can't be loaded`);
    }
    const left = tasks.filter(({ task }) => !obstacles.has(task));
    if (left.length === 0) break;
    found = await runTests(day, left, files, broken, { solution, patience, quiet });
    const stuck = left.find(({ task }) => task === found.stuck?.task);
    const blamed = found.loading.map((error) => [fileBlamed(error, files), error]).find(([file]) => file);
    if (stuck) obstacles.set(stuck.task, `'${found.stuck.check}' ${found.stuck.what}`);
    else if (blamed && !solution && !broken.has(blamed[0])) broken.set(...blamed);
    else break;
    found = nothing; // again, without what was in the way
  }
  const concerned = [...broken].filter(([file]) => tasks.some(({ task }) => file.tasks.includes(task)));
  const problems = [
    ...concerned.map(([{ path }, error]) => ({ what: `${path} can't be loaded`, error })),
    ...found.loading.map((error) => ({ what: 'The files could not be loaded', error })),
    ...found.uncaught.map((error) => ({ what: 'Nothing caught this error', error })),
  ];
  if (found.stuck) problems.push({ what: `Loading the files ${found.stuck.what}` });
  return { day, problems, tasks: tasks.map((task) => verdict(task, found.tests, obstacles.get(task.task))) };
}

/** A task with its checks and what they come to: 'done', 'todo' or 'failing'. */
function verdict({ task, title }, tests, obstacle) {
  const checks = obstacle ? [] : tests.filter((test) => test.task === task);
  const errors = checks.flatMap(({ errors }) => errors);
  const passed = checks.filter(({ errors }) => errors.length === 0).length;
  const graded = { task, title, checks, passed, obstacle };
  if (checks.length === 0) return { ...graded, verdict: 'failing', obstacle: obstacle ?? 'not graded' };
  if (passed === checks.length) return { ...graded, verdict: 'done' };
  const onlyTodo = errors.every(({ name }) => name === 'TodoError') && errors[0].task === task;
  return { ...graded, verdict: onlyTodo ? 'todo' : 'failing' };
}

/** The files that are no TypeScript, with their first error. */
async function syntaxErrors(files) {
  const { transform } = await import('esbuild');
  const broken = new Map();
  for (const file of files) {
    if (!existsSync(join(root, file.path))) {
      broken.set(file, { name: 'Error', message: 'There is no such file; `npm run days` writes it.' });
      continue;
    }
    try {
      await transform(readFileSync(join(root, file.path), 'utf8'), { loader: 'ts', logLevel: 'silent' });
    } catch (error) {
      const [{ text, location }] = error.errors;
      const { line, column, lineText } = location;
      const shown = `${line} | ${lineText}\n${' '.repeat(`${line} | `.length + column)}^`;
      broken.set(file, { name: 'SyntaxError', message: `${text}\n${shown}`, at: `${file.path}:${line}:${column + 1}` });
    }
  }
  return broken;
}

/** Which of the files an error that came while they were loaded speaks of. */
const fileBlamed = (error, files) => files.find(({ path }) => `${error.at} ${error.message}`.includes(path));

/**
 * Runs the tests of these tasks in a process of its own, and ends it when a check lasts too long: an endless loop can't be
 * stopped from within. In place of broken files their solutions are loaded.
 * @returns {Promise<{ tests: object[], loading: object[], uncaught: object[], stuck?: { task?: string, check?: string,
 *   what: string } }>} stuck: the check in which it ended
 */
async function runTests(day, tasks, files, broken, { solution, patience, quiet }) {
  const folder = broken.size > 0 ? standIns(files, broken) : undefined;
  const output = quiet ? 'ignore' : 'inherit';
  const names = tasks.map(({ task }) => task.replace('.', '\\.')).join('|');
  const child = fork(join(root, 'scripts/checkpoint-run.mjs'), [`^\\s*(${names})\\s`, String(patience)], {
    cwd: root,
    stdio: ['ignore', output, output, 'ipc'],
    serialization: 'advanced', // JSON has no NaN, no Infinity and no typed arrays
    env: {
      ...process.env,
      NANOVLLM_CHECKPOINT: String(day),
      NANOVLLM_CONDITIONS: solution ? '' : `day${day}`,
      ...(folder ? { NANOVLLM_EXERCISES: folder } : {}),
    },
  });
  try {
    return await new Promise((done) => {
      let found;
      let current; // the check that runs; null between two
      let what;
      let timer;
      child.on('message', ({ began, results }) => {
        if (results) found = results;
        else current = began;
        clearTimeout(timer);
        timer = setTimeout(
          () => {
            what = `did not end within ${patience} s: is there a loop that never ends?`;
            child.kill('SIGKILL');
          },
          patience * 1000 + 2000, // waiting in vain ends by itself, in Vitest, and sooner
        );
      });
      child.on('close', (code, signal) => {
        clearTimeout(timer);
        what ??= `ended all: ${found?.uncaught[0]?.message ?? signal ?? `exit code ${code}`}`;
        const none = { tests: [], loading: [], uncaught: [] };
        done(found && !current ? found : { ...none, stuck: { ...current, what } });
      });
    });
  } finally {
    if (folder) rmSync(folder, { recursive: true, force: true });
  }
}

/** A folder with the day's files as others import them; it lies in the repository, so that #nano/… means its files. */
function standIns(files, broken) {
  mkdirSync(join(root, 'dist'), { recursive: true });
  const folder = mkdtempSync(join(root, 'dist/exercises-'));
  for (const file of files) {
    const path = relative(folder, join(root, broken.has(file) ? file.source : file.path)).replaceAll('\\', '/');
    writeFileSync(join(folder, file.name), `export * from '${path}';\n`);
  }
  return folder;
}

const USAGE = `Say which day or task to check:

  npm run checkpoint -- 3              all tasks of day 3
  npm run checkpoint -- 3.2            one of them
  npm run checkpoint -- 3 --solution   the same tests on the solution in src/, to see them pass

--timeout 60 allows every check a minute instead of ${PATIENCE} s. \`npm run progress\` shows what is done.`;

/** What is asked for. @throws with what there is, for anything else */
function parseArguments(args) {
  const options = { solution: { type: 'boolean' }, timeout: TIMEOUT };
  const { values, positionals } = parseArgs({ args, allowPositionals: true, options });
  const [, wantedDay, wantedTask] = /^(\d+)(\.\d+)?$/.exec(positionals[0] ?? '') ?? [];
  if (!wantedDay || positionals.length > 1) throw new Error(USAGE);
  const patience = parsePatience(values.timeout);
  const { day, tasks } = findDay(Number(wantedDay));
  const chosen = wantedTask ? tasks.filter(({ task }) => task === positionals[0]) : tasks;
  if (chosen.length === 0) {
    const list = tasks.map(({ task, title }) => `  ${task} ${title}`).join('\n');
    throw new Error(`Day ${day} has no task ${positionals[0]}. It has\n\n${list}`);
  }
  return { day, tasks: chosen, solution: values.solution, patience };
}

export function parsePatience(text) {
  if (Number(text) > 0) return Number(text);
  throw new Error(`--timeout must be a number of seconds, got '${text}'.`);
}

/** @throws with the days there are, for one there is not */
export function findDay(wanted) {
  const days = listDays();
  const found = days.find(({ day }) => day === wanted);
  if (!found) {
    const list = days.map(({ day, title }) => `  ${day} ${title}`.trimEnd()).join('\n');
    throw new Error(`There is no day ${wanted}. There are\n\n${list}`);
  }
  if (found.tasks.length === 0) throw new Error(`Day ${wanted} has no checkpoint yet.`);
  return found;
}

async function main() {
  const { day, tasks, ...options } = parseArguments(process.argv.slice(2));
  const graded = await grade(day, tasks, options);
  printDay(graded, options.solution ? 'the solution in src/' : `your files in days/day${day}/`);
  const allDone = graded.tasks.every(({ verdict }) => verdict === 'done');
  process.exitCode = allDone && graded.problems.length === 0 ? 0 : 1;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  main().catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
}
