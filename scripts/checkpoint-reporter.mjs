// Prints a graded checkpoint task by task: done, to do, or what was expected, what came and where to read.
import { styleText } from 'node:util';

export const colour = (style, text) => (process.stdout.isTTY && !process.env.NO_COLOR ? styleText(style, text) : text);
const indent = (text, by) => text.replaceAll('\n', `\n${' '.repeat(by)}`);

/** Done, to do, failing: told apart without colours too. */
export const MARKS = { done: colour('green', '✓'), todo: colour('yellow', '·'), failing: colour('red', '✗') };

/** @param graded what `grade` of checkpoint.mjs found out about `subject` */
export function printDay({ day, problems, tasks }, subject) {
  console.log(`\nDay ${day}: ${subject}\n`);
  for (const problem of problems) printProblem(problem);
  for (const task of tasks) printTask(task);
  const sum = (count) => tasks.reduce((total, task) => total + count(task), 0);
  const passed = sum((task) => task.passed);
  const missed = ({ checks, passed }) => checks.length - passed;
  const failed = sum((task) => (task.verdict === 'todo' ? 0 : missed(task)));
  const toDo = sum((task) => (task.verdict === 'todo' ? missed(task) : 0));
  const ungraded = sum((task) => (task.obstacle ? 1 : 0));
  if (failed + toDo + ungraded > 0) console.log(`\nThe lesson: days/day${day}/README.md`);
  const unknown = ungraded > 0 ? `; ${ungraded} ${ungraded === 1 ? 'task' : 'tasks'} not graded` : '';
  console.log(`\n${passed} passed, ${failed} failed${toDo > 0 ? `, ${toDo} to do` : ''}${unknown}`);
}

/** What concerns no task alone. */
export function printProblem({ what, error }) {
  console.log(`${MARKS.failing} ${what}${error ? `: ${indent(describe(error), 4)}` : ''}\n`);
}

function printTask({ task, title, verdict, checks, passed, obstacle }) {
  const mark = `${MARKS[verdict]} ${task} ${title}`;
  const failed = checks.filter(({ errors }) => errors.length > 0);
  if (obstacle) {
    console.log(`${mark}: ${obstacle}`);
  } else if (verdict === 'done') {
    console.log(`${mark}: all ${checks.length} checks pass`);
  } else if (verdict === 'todo') {
    console.log(`${mark}: to do${passed > 0 ? ` (${passed} of ${checks.length} checks pass)` : ''}`);
    console.log(`    ${failed[0].errors[0].message}`);
  } else {
    console.log(`${mark}: ${failed.length} of ${checks.length} checks fail`);
    for (const { check, errors } of failed) {
      console.log(`    ${MARKS.failing} ${check}`);
      for (const error of errors) console.log(`        ${indent(describe(error), 8)}`);
    }
  }
}

/** The message; for a comparison, what was expected and what came; and the learner's line it passed through. */
function describe(error) {
  const [what, comparison] = error.message.split(/: (?=expected )/);
  if (error.name === 'TodoError') return `Task ${error.task} is still to do, in ${error.file}`;
  const lines = [];
  if (error.actual !== undefined && error.expected !== undefined && comparison) {
    const both = [flat(error.expected), flat(error.actual)];
    // Where all numbers agree, it is the kinds of array that differ.
    const [expected, actual] = withoutKind(both[0]) === withoutKind(both[1]) ? both : both.map(withoutKind);
    lines.push(what, `expected  ${expected}`, `got       ${actual}`);
  } else {
    lines.push(
      error.name === 'AssertionError'
        ? error.message.replace(/ \/\/ Object\.is.*/, '')
        : `${error.name}: ${error.message.replace(/\nIf this is a long-running test.*/s, '')}`,
    );
  }
  if (error.at) lines.push(colour('gray', `at ${error.at}`));
  return lines.join('\n');
}

/** Values come printed over many lines; arrays of numbers read better in one. */
function flat(value) {
  const text = String(value)
    .replace(/\s*\n\s*/g, ' ')
    .replace(/, ([\]}])/g, ' $1')
    .replace(/\[ /, '[')
    .replace(/ \]/, ']');
  return text.length <= 200 ? text : `${text.slice(0, 197)}…`;
}

const withoutKind = (text) => text.replace(/^\w*Array \[/, '[');
