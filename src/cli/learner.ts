import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { ConfigError } from '#nano/errors';

/**
 * Starts this program again with the package import conditions of the learner's days, so that
 * `#nano/…` resolves to days/dayN for the files those days own, and to src/ for all others.
 * @param program the file to start, relative to this one's folder
 * @returns the exit code.
 * @throws ConfigError for days that do not exist, or cannot run.
 */
export function runAsLearner(days: string, argv: string[], program = '../cli.js'): number {
  const rest = argv.filter(
    (arg, i) => arg !== '--learner' && !arg.startsWith('--learner=') && argv[i - 1] !== '--learner',
  );
  const wanted = parseDays(days);
  for (const day of wanted) checkCompiled(day);
  const conditions = wanted.map((day) => `--conditions=day${day}`);
  const main = fileURLToPath(new URL(program, import.meta.url));
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

/** A file that is no TypeScript leaves nothing to run, and Node would only say that some module is missing. */
function checkCompiled(day: number): void {
  const root = new URL('../../../', import.meta.url); // from dist/src/cli
  const { imports } = JSON.parse(readFileSync(new URL('package.json', root), 'utf8'));
  for (const conditions of Object.values<Record<string, { source: string; default: string }>>(imports)) {
    const file = conditions[`day${day}`];
    if (!file || existsSync(new URL(file.default, root))) continue;
    throw new ConfigError(
      `--learner ${day} cannot run ${file.source.slice(2)}, which is not compiled. Either it is no valid TypeScript ` +
        `(\`npm run checkpoint -- ${day}\` says where), or \`npm run build\` is still to be run.`,
    );
  }
}
