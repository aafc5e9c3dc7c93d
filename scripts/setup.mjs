// Brings a fresh clone to where it can run: packages, native addon, compiled TypeScript. Each part is
// skipped when nothing it depends on has changed. Plain JavaScript without packages: it runs before there are any.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const major = Number(process.versions.node.split('.')[0]);
if (major < 20) fail(`Node ${process.versions.node} is too old: nano-vllm-ts needs Node 20 or newer.`);

await step('packages', 'node_modules/.setup', ['package-lock.json'], 'Installing packages', () =>
  run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error']),
);
if (process.argv.includes('--packages')) process.exit(); // a checkpoint needs no more
await Promise.all([buildAddon(), compileTypeScript()]);
await transpileDays();

/** The cpu backend. Without a compiler this is no error: the reference backend needs none. */
async function buildAddon() {
  const missing = [
    ['C++ compiler', [process.env.CXX, 'c++', 'g++', 'clang++']],
    ['CMake', ['cmake']],
  ].filter(([, names]) => !names.some((name) => name && works(name)));
  if (missing.length > 0) {
    say(
      `No ${missing.map(([what]) => what).join(' and no ')} found: the engine will run on the slow 'reference' backend.`,
    );
    rmSync(join(root, 'build'), { recursive: true, force: true });
    return;
  }
  await step('addon', 'build/.setup', ['csrc'], 'Building the native backend (C++)', async () => {
    try {
      await run(process.execPath, [
        'node_modules/cmake-js/bin/cmake-js',
        'compile',
        '-d',
        'csrc',
        '-O',
        'build',
        '--silent',
      ]);
    } catch (error) {
      if (process.env.CI) throw error;
      say(`The native backend did not build; going on with the slow 'reference' backend.\n${error.message}`);
      return false;
    }
  });
}

async function compileTypeScript() {
  await step('dist', 'dist/.setup', ['src', 'tsconfig.json'], 'Compiling TypeScript', () =>
    run(process.execPath, ['node_modules/typescript/bin/tsc', '-p', '.']),
  );
}

/** Exercises are only transpiled, each alone: a half-written one must not stop the others, or the engine. */
async function transpileDays() {
  const files = list('days').filter(
    (file) => /day\d+\/[\w-]+\.ts$/.test(file.replaceAll('\\', '/')) && !file.endsWith('.test.ts'),
  );
  if (files.length === 0) return;
  const { transform } = await import(pathToFileURL(join(root, 'node_modules/esbuild/lib/main.js')).href).then(
    (m) => m.default,
  );
  for (const file of files) {
    const target = join(root, 'dist', file.replace(/\.ts$/, '.js'));
    try {
      const { code } = await transform(readFileSync(join(root, file), 'utf8'), {
        loader: 'ts',
        sourcefile: file,
        target: 'es2022',
        logLevel: 'silent',
      });
      mkdirSync(dirname(target), { recursive: true });
      writeFileSync(target, code);
    } catch (error) {
      rmSync(target, { force: true }); // rather none than one from before
      say(`${file} is no valid TypeScript, and \`--learner\` will not find it:\n${error.message}`);
    }
  }
}

/** Runs `work` unless the stamp file says that its inputs are what they were. A `false` leaves no stamp. */
async function step(name, stamp, inputs, message, work) {
  const hash = createHash('sha256').update(`${process.platform} ${process.arch} ${process.versions.modules}`);
  for (const file of inputs.flatMap(list)) hash.update(file).update(readFileSync(join(root, file)));
  const digest = hash.digest('hex');
  const path = join(root, stamp);
  if (existsSync(path) && readFileSync(path, 'utf8') === digest) return;
  const started = Date.now();
  say(`${message} …`);
  try {
    if ((await work()) === false) return;
  } catch (error) {
    fail(`Setting up ${name} failed.\n${error.message}`);
  }
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, digest);
  say(`${message}: done in ${((Date.now() - started) / 1000).toFixed(0)} s`);
}

function list(path) {
  const full = join(root, path);
  if (!existsSync(full)) return [];
  const entries = readdirSyncOrNull(full);
  return entries ? entries.sort().flatMap((entry) => list(join(path, entry))) : [path];
}

function readdirSyncOrNull(path) {
  try {
    return readdirSync(path);
  } catch {
    return null; // a file
  }
}

function works(program) {
  return spawnSync(program, ['--version'], { stdio: 'ignore', shell: process.platform === 'win32' }).status === 0;
}

/** Rejects with the program's output when it fails. */
function run(program, args) {
  return new Promise((done, failed) => {
    const child = spawn(program, args, { cwd: root, shell: process.platform === 'win32' && program === 'npm' });
    let output = '';
    child.stdout.on('data', (data) => (output += data));
    child.stderr.on('data', (data) => (output += data));
    child.on('error', failed);
    child.on('close', (code) => (code === 0 ? done() : failed(new Error(output.slice(-8000)))));
  });
}

function say(message) {
  process.stderr.write(`[setup] ${message}\n`);
}

function fail(message) {
  say(message);
  process.exit(1);
}
