// Prints a checkpoint task by task: done, to do, or what was expected, what came and where to read. Tests are
// named after their tasks: describe('1.3 …', () => test('…')).
import { relative } from 'node:path';
import { styleText } from 'node:util';

const colour = (style, text) => (process.stdout.isTTY && !process.env.NO_COLOR ? styleText(style, text) : text);
const indent = (text, by) => text.replaceAll('\n', `\n${' '.repeat(by)}`);

export default class CheckpointReporter {
  onTestRunEnd(modules, unhandled) {
    const day = process.env.NANOVLLM_CHECKPOINT;
    console.log(`\nDay ${day}: ${process.env.NANOVLLM_CHECKPOINT_OF}\n`);
    for (const error of [...unhandled, ...modules.flatMap((module) => module.errors())]) {
      console.log(`${colour('red', '✗')} The files could not be loaded: ${describe(error)}\n`);
    }
    const tests = modules.flatMap((module) => [...module.children.allTests()]);
    const ran = tests.filter((test) => ['passed', 'failed'].includes(test.result().state));
    for (const [task, checks] of Map.groupBy?.(ran, taskOf) ?? groupBy(ran, taskOf)) printTask(task, checks);
    const passed = ran.filter((test) => test.result().state === 'passed').length;
    if (ran.length === 0) console.log('No check ran.');
    else if (passed < ran.length) console.log(`\nThe lesson: days/day${day}/README.md`);
    console.log(`\n${passed} passed, ${ran.length - passed} failed`);
    if (ran.length === 0) process.exitCode = 1;
  }
}

const taskOf = (test) => test.parent.name;

/** Node 20 has no Map.groupBy. */
function groupBy(items, keyOf) {
  const groups = new Map();
  for (const item of items) groups.set(keyOf(item), [...(groups.get(keyOf(item)) ?? []), item]);
  return groups;
}

function printTask(task, checks) {
  const failed = checks.filter((check) => check.result().state === 'failed');
  const errors = failed.flatMap((check) => check.result().errors);
  const todo = errors.find((error) => error.name === 'TodoError');
  const number = task.split(' ')[0];
  if (failed.length === 0) {
    console.log(`${colour('green', '✓')} ${task}: all ${checks.length} checks pass`);
  } else if (todo && todo.task === number && errors.every((error) => error.name === 'TodoError')) {
    const done = checks.length - failed.length;
    console.log(
      `${colour('yellow', '·')} ${task}: to do${done > 0 ? ` (${done} of ${checks.length} checks pass)` : ''}`,
    );
    console.log(`    ${todo.message}`);
  } else {
    console.log(`${colour('red', '✗')} ${task}: ${failed.length} of ${checks.length} checks fail`);
    for (const check of failed) {
      console.log(`    ${colour('red', '✗')} ${check.name}`);
      for (const error of check.result().errors) console.log(`        ${indent(describe(error), 8)}`);
    }
  }
}

/** The message; for a comparison, what was expected and what came; and the learner's line it passed through. */
function describe(error) {
  const [what, comparison] = error.message.split(/: (?=expected )/);
  if (error.name === 'TodoError') return `Task ${error.task} is still to do, in ${error.file}`;
  const lines = [];
  if (error.actual !== undefined && error.expected !== undefined && comparison) {
    lines.push(what, `expected  ${flat(error.expected)}`, `got       ${flat(error.actual)}`);
  } else {
    lines.push(
      error.name === 'AssertionError'
        ? error.message.replace(/ \/\/ Object\.is.*/, '')
        : `${error.name}: ${error.message}`,
    );
  }
  const files = error.stacks?.map(({ file, line }) => `${relative(process.cwd(), file)}:${line}`) ?? [];
  const mine =
    files.find((file) => /^(days|dist)\/.*(?<!\.test)\.ts:/.test(file)) ??
    files.find((file) => file.startsWith('days/'));
  if (mine) lines.push(colour('gray', `at ${mine}`));
  return lines.join('\n');
}

/** Values come printed over many lines; arrays of numbers read better in one. */
function flat(value) {
  const text = String(value)
    .replace(/\s*\n\s*/g, ' ')
    .replace(/^(\w+Array|Array) \[/, '[')
    .replace(/, ([\]}])/g, ' $1')
    .replace(/\[ /, '[')
    .replace(/ \]/, ']');
  return text.length <= 200 ? text : `${text.slice(0, 197)}…`;
}
