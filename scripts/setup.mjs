// Brings a fresh clone to where it can run: packages, native addon, compiled TypeScript. Each part is
// skipped when nothing it depends on has changed. Plain JavaScript without packages: it runs before there are any.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
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

/**
 * The cpu backend, and the cuda backend where there is a GPU. Without a compiler this is no error: the reference backend needs
 * none. Tests and benchmarks (`--ladder`) also want the attention kernels that are only there to be read and compared.
 */
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
  const cuda = findCuda();
  const variants = [...(process.argv.includes('--ladder') ? [] : ['']), 'ladder'].map((v) => `${cuda.arch} ${v}`);
  const what = cuda.arch ? `C++, and CUDA for ${cuda.arch}` : 'C++';
  await step(
    'addon',
    'build/.setup',
    ['csrc'],
    `Building the native backends (${what})`,
    () => compile(cuda),
    variants,
  );
}

async function compile(cuda) {
  if (cuda.note) say(cuda.note);
  const cmake = (command, ...options) =>
    run(
      process.execPath,
      ['node_modules/cmake-js/bin/cmake-js', command, '-d', 'csrc', '-O', 'build', '--silent', ...options],
      cuda.nvcc && { CUDACXX: cuda.nvcc },
    );
  const build = async (arch) => {
    const ladder = process.argv.includes('--ladder') ? 'ON' : 'OFF';
    await cmake('configure', `--CDNANOVLLM_CUDA_ARCH=${arch}`, `--CDNANOVLLM_CUDA_LADDER=${ladder}`);
    await cmake('build', '--parallel', String(availableParallelism()));
  };
  rmSync(join(root, 'build/Release/nanovllm_cuda.node'), { force: true });
  try {
    try {
      await build(cuda.arch);
    } catch (error) {
      if (!cuda.arch || process.env.CI) throw error;
      say(`The cuda backend did not build; going on without it.\n${error.message}`);
      await build('');
      return false; // the next start tries again
    }
  } catch (error) {
    if (process.env.CI) throw error;
    say(`The native backends did not build; going on with the slow 'reference' backend.\n${error.message}`);
    return false;
  }
}

/**
 * What to build the cuda backend for: NANOVLLM_CUDA_ARCH (90a for an H100, 80 for an A100, several with ';', none), or this
 * machine's own GPUs. An empty `arch` leaves it out, and `note` says why where somebody might wonder.
 */
function findCuda() {
  const wanted = process.env.NANOVLLM_CUDA_ARCH;
  if (wanted === 'none') return { arch: '' };
  const query = spawnSync('nvidia-smi', ['--query-gpu=compute_cap', '--format=csv,noheader'], { encoding: 'utf8' });
  const gpus = query.status === 0 ? [...new Set(query.stdout.trim().split(/\s*\n/))] : [];
  // The Hopper kernels need instructions that only the architecture's own variant has.
  const arch = wanted || gpus.map((capability) => capability.replace('.', '').replace(/^90$/, '90a')).join(';');
  const homes = [process.env.CUDA_HOME, process.env.CUDA_PATH, '/usr/local/cuda'].filter(Boolean);
  const nvcc = [process.env.CUDACXX, 'nvcc', ...homes.map((home) => join(home, 'bin/nvcc'))].find((n) => n && works(n));
  if (arch && !nvcc) {
    return {
      arch: '',
      note: `The cuda backend is left out: there is a GPU to build it for (${arch}) but no CUDA compiler. Install the CUDA toolkit (12.4 or newer), or set CUDA_HOME to where it lies.`,
    };
  }
  if (!arch && nvcc) {
    return {
      arch: '',
      note: 'The cuda backend is left out: nvidia-smi finds no GPU. NANOVLLM_CUDA_ARCH=90a builds it anyway.',
    };
  }
  return { arch, nvcc };
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

/**
 * Runs `work` unless the stamp file says that its inputs are what they were. A `false` leaves no stamp. Any of `variants` will
 * do, and the first is what `work` makes.
 */
async function step(name, stamp, inputs, message, work, variants = ['']) {
  const hash = createHash('sha256').update(`${process.platform} ${process.arch} ${process.versions.modules}`);
  for (const file of inputs.flatMap(list)) hash.update(file).update(readFileSync(join(root, file)));
  const digests = variants.map((variant) => hash.copy().update(variant).digest('hex'));
  const path = join(root, stamp);
  if (existsSync(path) && digests.includes(readFileSync(path, 'utf8'))) return;
  const started = Date.now();
  say(`${message} …`);
  try {
    if ((await work()) === false) return;
  } catch (error) {
    fail(`Setting up ${name} failed.\n${error.message}`);
  }
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, digests[0]);
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
function run(program, args, env = {}) {
  return new Promise((done, failed) => {
    const child = spawn(program, args, {
      cwd: root,
      env: { ...process.env, ...env },
      shell: process.platform === 'win32' && program === 'npm',
    });
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
