import { spawn } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { compare } from '../scripts/days.mjs';

// With `--learner`, the engine that runs is made of the learner's files: shown in copies of this repository whose exercises
// are solved, or untouched.

const ROOT = resolve(import.meta.dirname, '..');
const files = compare(ROOT);
type Exercise = (typeof files)[number];

const solution = ({ source }: Exercise) => readFileSync(join(ROOT, source), 'utf8');
const untouched = ({ text }: Exercise) => text;
const compiled = (path: string) => `dist/${path.replace(/\.ts$/, '.js')}`;

const folders: string[] = [];
const temporary = (name: string) => {
  folders.push(realpathSync(mkdtempSync(join(tmpdir(), name))));
  return folders.at(-1) as string;
};
afterAll(() => folders.forEach((folder) => rmSync(folder, { recursive: true, force: true })));

/** What was built here, with these exercises, compiled as `npm start` compiles them. */
async function copyWith(exercise: (file: Exercise) => string): Promise<string> {
  const copy = temporary('learner-');
  const parts = ['package.json', 'package-lock.json', 'tsconfig.json', 'scripts', 'src', 'csrc'];
  for (const path of [...parts, 'dist/src', 'dist/.setup', 'build/Release', 'build/.setup']) {
    if (existsSync(join(ROOT, path))) cpSync(join(ROOT, path), join(copy, path), { recursive: true });
  }
  symlinkSync(join(ROOT, 'models'), join(copy, 'models'), 'junction');
  // One link a package, so that whatever setup does, it does to the copy.
  mkdirSync(join(copy, 'node_modules'));
  cpSync(join(ROOT, 'node_modules/.setup'), join(copy, 'node_modules/.setup'));
  for (const name of readdirSync(join(ROOT, 'node_modules')).filter((name) => !name.startsWith('.'))) {
    symlinkSync(join(ROOT, 'node_modules', name), join(copy, 'node_modules', name), 'junction');
  }
  for (const file of files) write(copy, file, exercise(file));
  const { code, stderr } = await node(copy, ['scripts/setup.mjs']);
  expect(code, stderr).toBe(0);
  return copy;
}

function write(copy: string, { exercise, day }: Exercise, text: string): void {
  mkdirSync(join(copy, `days/day${day}`), { recursive: true });
  writeFileSync(join(copy, exercise), text);
}

interface Run {
  code: number | null;
  stdout: string;
  stderr: string;
  pid: number;
}

function node(cwd: string, args: string[], env: Record<string, string> = {}): Promise<Run> {
  const { VITEST, NODE_OPTIONS, ...own } = process.env; // a run under vitest must not hand its own settings on
  const child = spawn(process.execPath, args, { cwd, env: { ...own, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (data) => (stdout += data));
  child.stderr.on('data', (data) => (stderr += data));
  return new Promise((done) => child.on('close', (code) => done({ code, stdout, stderr, pid: child.pid as number })));
}

const PROMPT = ['--prompt', 'Once upon a time', '--temperature', '0', '--max-tokens', '16'];

/**
 * Runs the engine, and says which files of the repository each of its threads has loaded. Node's own record tells, that of the
 * coverage: it is kept without any help of the program, and in the processes and threads that this one starts.
 */
async function run(copy: string, args: string[]): Promise<Run & { loaded: Set<string>[] }> {
  const records = temporary('loaded-');
  const result = await node(copy, ['dist/src/cli.js', ...args, ...PROMPT], { NODE_V8_COVERAGE: records });
  const root = pathToFileURL(`${copy}/`).href;
  const loaded = readdirSync(records)
    // The process that sees `--learner` only starts another, with the conditions of the days: that is the engine.
    .filter((name) => !(args.includes('--learner') && name.startsWith(`coverage-${result.pid}-`)))
    .map((name) => {
      const { result } = JSON.parse(readFileSync(join(records, name), 'utf8')) as { result: { url: string }[] };
      const own = result.filter(({ url }) => url.startsWith(root)).map(({ url }) => url.slice(root.length));
      return new Set(own);
    });
  return { ...result, loaded };
}

/** Of the files that days own, those of `learned` came from days/, and all others from src/; each of them once at most. */
function expectOrigins(loaded: Set<string>, learned: number[], what: string): void {
  for (const { day, source, exercise } of files) {
    const [theirs, other] = learned.includes(day) ? [exercise, source] : [source, exercise];
    expect(loaded.has(compiled(other)), `${what}: whether ${compiled(other)} was loaded`).toBe(false);
    const isNeeded = day <= 5; // the rest by two ranks, by CUDA graphs or by the bench
    if (isNeeded) expect(loaded.has(compiled(theirs)), `${what}: whether ${compiled(theirs)} was loaded`).toBe(true);
  }
}

const days = [1, 2, 3, 4, 5, 6];
const hasAddon = existsSync(join(ROOT, 'build/Release/nanovllm.node')) || Boolean(process.env.NANOVLLM_REQUIRE_CPU);

describe('with the solutions in days/', () => {
  let copy: string;
  let text: string;

  beforeAll(async () => {
    copy = await copyWith(solution);
    const engine = await run(copy, ['--backend', 'reference']);
    expect(engine.code, engine.stderr).toBe(0);
    expect(engine.loaded).toHaveLength(1);
    expectOrigins(engine.loaded[0], [], 'without --learner');
    text = engine.stdout;
    expect(text).toMatch(/^Once upon a time.{20}/);
  }, 600_000);

  test('`--learner 1-5` tells the same story, and no module of the reference is left in it', async () => {
    const { code, stdout, stderr, loaded } = await run(copy, ['--learner', '1-5', '--backend', 'reference']);
    expect(code, stderr).toBe(0);
    expect(stdout).toBe(text);
    expect(loaded).toHaveLength(1);
    expectOrigins(loaded[0], [1, 2, 3, 4, 5], '--learner 1-5');
  });

  test.skipIf(!hasAddon)('also on the cpu backend, whose kernels are C++', async () => {
    const [engine, learner] = [
      await run(copy, ['--backend', 'cpu']),
      await run(copy, ['--learner', '1-5', '--backend', 'cpu']),
    ];
    expect(learner.code, learner.stderr).toBe(0);
    expect(learner.stdout).toBe(engine.stdout);
    expectOrigins(learner.loaded[0], [1, 2, 3, 4, 5], '--learner 1-5 on cpu');
  });

  test.each(days)('`--learner %i` alone puts the files of that day into the engine, and no others', async (day) => {
    const { code, stdout, stderr, loaded } = await run(copy, ['--learner', String(day), '--backend', 'reference']);
    expect(code, stderr).toBe(0);
    expect(stdout).toBe(text);
    expectOrigins(loaded[0], [day], `--learner ${day}`);
  });

  test.skipIf(!hasAddon)('in every rank of tensor parallelism', async () => {
    const ranks = ['--tensor-parallel-size', '2', '--backend', 'cpu'];
    const [engine, learner] = [await run(copy, ranks), await run(copy, ['--learner', '6', ...ranks])];
    expect(learner.code, learner.stderr).toBe(0);
    expect(learner.stdout).toBe(engine.stdout);
    expect(learner.stdout).toMatch(/^Once upon a time.{20}/);
    expect(learner.loaded, 'the process, and a thread for rank 1').toHaveLength(2);
    for (const [i, loaded] of learner.loaded.entries()) {
      for (const { source, exercise } of files.filter(({ day }) => day === 6)) {
        expect(loaded.has(compiled(source)), `thread ${i}: whether ${compiled(source)} was loaded`).toBe(false);
        expect(loaded.has(compiled(exercise)), `thread ${i}: whether ${compiled(exercise)} was loaded`).toBe(true);
      }
    }
  });
});

describe('with untouched exercises', () => {
  let copy: string;
  beforeAll(async () => void (copy = await copyWith(untouched)), 600_000);

  test.each(days)('`--learner %i` stops at the first task it needs, and says so in one line', async (day) => {
    const { code, stderr } = await node(copy, ['dist/src/cli.js', '--learner', String(day), ...PROMPT]);
    const [, task, file] = /^TodoError: Task (\d\.\d+) is not written yet\. Write it in (\S+) .*\n$/.exec(stderr) ?? [];
    expect(task, stderr).toMatch(new RegExp(`^${day}\\.`));
    expect(files.find(({ exercise }) => exercise === file)?.text).toContain(`// TODO ${task} `);
    expect(code).toBe(1);
  });

  test.skipIf(!hasAddon)('so do two ranks, and none is waited for', async () => {
    const args = ['--learner', '6', '--tensor-parallel-size', '2', '--backend', 'cpu'];
    const { code, stderr } = await node(copy, ['dist/src/cli.js', ...args, ...PROMPT]);
    expect(stderr).toMatch(/^TodoError: Task 6\.\d is not written yet\. .*\n$/);
    expect(code).toBe(1);
  });

  test('a file with a syntax error is named when the engine is built, and when it is to run', async () => {
    const config = files.find(({ exercise }) => exercise === 'days/day1/config.ts') as Exercise;
    write(copy, config, config.text.replace('export class Config', 'export klass Config'));
    const { stderr } = await node(copy, ['scripts/setup.mjs']);
    expect(stderr).toMatch(/days\/day1\/config\.ts is no valid TypeScript[\s\S]*days\/day1\/config\.ts:\d+:\d+/);
    const learner = await node(copy, ['dist/src/cli.js', '--learner', '1', ...PROMPT]);
    expect(learner.stderr).toMatch(
      /^ConfigError: --learner 1 cannot run days\/day1\/config\.ts, which is not compiled\. .*\n$/,
    );
    expect(learner.code).toBe(1);
    // The other days run, up to what is to do there.
    const other = await node(copy, ['dist/src/cli.js', '--learner', '2', ...PROMPT]);
    expect(other.stderr).toMatch(/^TodoError: Task 2\./);
  });
});
