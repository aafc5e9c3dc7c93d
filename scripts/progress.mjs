// How far you are: grades your exercises of all days, and says what comes next.
//
//   npm run progress          all days
//   npm run progress -- 3     the tasks of day 3, with their titles
import { parseArgs } from 'node:util';
import { findDay, grade, listDays, parsePatience, TIMEOUT } from './checkpoint.mjs';
import { colour, MARKS, printProblem } from './checkpoint-reporter.mjs';

/** At most this many checkpoints run at a time: each is a process of its own, and a busy one. */
const AT_ONCE = 2;

async function main() {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { timeout: TIMEOUT } });
  const patience = parsePatience(values.timeout);
  if (positionals.length > 1 || !/^\d*$/.test(positionals[0] ?? '')) {
    throw new Error('Say nothing more than a day, such as: npm run progress   npm run progress -- 3');
  }
  const days = positionals[0] ? [findDay(Number(positionals[0]))] : listDays();
  const graded = await gradeAll(days, patience);
  if (positionals[0]) printTasks(graded[0]);
  else printDays(graded);
  printNext(graded);
}

/** The days with their tasks graded, in order. */
async function gradeAll(days, patience) {
  const results = [];
  const queue = days.entries();
  const work = async () => {
    for (const [i, { day, title, tasks }] of queue) {
      results[i] = { title, ...(await grade(day, tasks, { patience, quiet: true })) };
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return results;
}

const isDone = ({ verdict }) => verdict === 'done';
const count = (tasks) => `${tasks.filter(isDone).length} of ${tasks.length}`;

function printDays(days) {
  const width = Math.max(...days.map(({ title }) => title.length));
  console.log(`\nDay  ${'Title'.padEnd(width)}  Done    Tasks`);
  for (const { day, title, tasks } of days) {
    const marks = tasks.map(({ task, verdict }) => `${MARKS[verdict]} ${task}`).join('  ') || 'no checkpoint yet';
    console.log(` ${day}   ${title.padEnd(width)}  ${count(tasks)}  ${marks}`);
  }
  const all = days.flatMap(({ tasks }) => tasks);
  console.log(`\n${MARKS.done} done   ${MARKS.todo} to do   ${MARKS.failing} failing\n`);
  console.log(`${bar(all)} ${count(all)} tasks done\n`);
  for (const { problems } of days) problems.forEach(printProblem);
}

function printTasks({ day, title, problems, tasks }) {
  console.log(`\nDay ${day}: ${title}\n`);
  const width = Math.max(...tasks.map(({ title }) => title.length));
  for (const { task, title, verdict, passed, checks, obstacle } of tasks) {
    const state = obstacle ?? `${passed} of ${checks.length} checks pass`;
    console.log(`${MARKS[verdict]} ${task} ${title.padEnd(width)}  ${state}`);
  }
  console.log(`\n${bar(tasks)} ${count(tasks)} tasks done\n`);
  problems.forEach(printProblem);
}

function bar(tasks) {
  const width = 40;
  const full = Math.floor((width * tasks.filter(isDone).length) / tasks.length);
  return colour('green', '█'.repeat(full)) + '░'.repeat(width - full);
}

/** The first task that is not done, how to check it, and where to read. */
function printNext(days) {
  const left = days.flatMap(({ day, tasks }) =>
    tasks.filter((task) => !isDone(task)).map((task) => ({ day, ...task })),
  );
  if (left.length === 0) {
    const [first, last] = [days[0].day, days.at(-1).day];
    const range = first === last ? first : `${first}-${last}`;
    console.log(`All done. Your code in the engine: npm start -- --learner ${range}`);
    return;
  }
  const [{ day, task, title, obstacle }] = left;
  console.log(`Next    ${task} ${title}${obstacle ? ` (${obstacle})` : ''}`);
  console.log(`Check   npm run checkpoint -- ${task}`);
  console.log(`Lesson  days/day${day}/README.md`);
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
