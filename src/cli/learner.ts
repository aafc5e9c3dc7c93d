import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { ConfigError } from '#nano/errors';

/**
 * Starts this program again with the package import conditions of the learner's days, so that
 * `#nano/…` resolves to days/dayN for the files those days own, and to src/ for all others.
 * @returns the exit code.
 */
export function runAsLearner(days: string, argv: string[]): number {
  const rest = argv.filter(
    (arg, i) => arg !== '--learner' && !arg.startsWith('--learner=') && argv[i - 1] !== '--learner',
  );
  const conditions = parseDays(days).map((day) => `--conditions=day${day}`);
  const main = fileURLToPath(new URL('../cli.js', import.meta.url));
  return spawnSync(process.execPath, [...conditions, main, ...rest], { stdio: 'inherit' }).status ?? 1;
}

/** '3' → [3]; '1-5' → [1, 2, 3, 4, 5]. @throws ConfigError for anything else. */
export function parseDays(text: string): number[] {
  const match = /^([1-7])(?:-([1-7]))?$/.exec(text);
  const first = Number(match?.[1]);
  const last = Number(match?.[2] ?? first);
  if (!match || last < first)
    throw new ConfigError(`--learner must be a day from 1 to 7, or a range such as 1-5, got '${text}'.`);
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}
