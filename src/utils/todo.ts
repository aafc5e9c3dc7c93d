import { NanoVllmError } from '#nano/errors';

/** Thrown by an exercise that is still to be written: names the task, the file, the lesson and the test. */
export class TodoError extends NanoVllmError {
  constructor(
    /** Such as '1.3': task 3 of day 1. */
    readonly task: string,
    /** Where the learner writes it, from the root of the repository. */
    readonly file: string,
  ) {
    const day = task.split('.')[0];
    super(
      `Task ${task} is not written yet. Write it in ${file} (look for "TODO ${task}"); ` +
        `the lesson is days/day${day}/README.md, and \`npm run checkpoint -- ${task}\` tests it.`,
    );
  }
}
