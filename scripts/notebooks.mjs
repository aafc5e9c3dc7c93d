// The notebooks of the course, in Jupyter with the TypeScript kernel that is among this project's packages (tslab).
//
//   npm run notebooks                    opens them
//   npm run notebooks -- --learner 1     opens them with your exercises of day 1 in the engine
//   npm run notebooks:check              runs them all, two at a time, and fails if a cell does
//   npm run notebooks:run                runs them all and keeps the new outputs (-- day1: only that one)
//
// Nothing is installed for good: the kernel is described in a temporary folder that Jupyter is pointed to.
import { spawn, spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, delimiter, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

/** The first Python here that has all these modules; the one on the PATH need not be the one with Jupyter. */
export function findPython(...modules) {
  const candidates = ['python3', '/usr/bin/python3', '/usr/local/bin/python3', 'python', 'py'];
  return candidates.find(
    (python) => spawnSync(python, ['-c', `import ${modules.join()}`], { stdio: 'ignore' }).status === 0,
  );
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { check: { type: 'boolean' }, run: { type: 'boolean' }, learner: { type: 'string' } },
  });
  const folder = mkdtempSync(join(tmpdir(), 'notebooks-'));
  try {
    linkPackage();
    const env = jupyterEnvironment(folder, values.learner);
    if (!values.check && !values.run) return open(env);
    const python = findPython('nbformat', 'nbclient', 'jupyter_client');
    if (!python) {
      throw new Error(
        'Running the notebooks needs nbclient (Debian: python3-nbclient; PyPI: nbclient): no Python here has it.',
      );
    }
    // Where outputs are kept, one has the machine for itself: some show how long something took.
    const failed = await executeAll(notebooks(positionals), values.run ? 1 : 2, (file) =>
      execute(python, file, folder, values.run, env),
    );
    if (failed.length > 0) throw new Error(`Failed: ${failed.map((file) => basename(file)).join(', ')}`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The notebooks import the package by its own name: tslab can't import files outside their folder. */
function linkPackage() {
  const link = join(root, 'node_modules/nano-vllm-ts');
  try {
    symlinkSync(root, link, 'junction');
  } catch (error) {
    if (error.code !== 'EEXIST') throw error; // it is there already, or another run has just made it
  }
}

/** Describes the kernel in `folder`, and gives the environment in which Jupyter finds it. */
function jupyterEnvironment(folder, learner) {
  const kernel = join(folder, 'kernels/tslab');
  mkdirSync(kernel, { recursive: true });
  const conditions = learner ? days(learner).map((day) => `--conditions=day${day}`) : [];
  const description = {
    argv: [
      process.execPath,
      join(root, 'node_modules/tslab/bin/tslab'),
      'kernel',
      '--config-path',
      '{connection_file}',
    ],
    display_name: 'TypeScript',
    language: 'typescript',
    env: { NODE_OPTIONS: [process.env.NODE_OPTIONS, ...conditions].filter(Boolean).join(' ') },
  };
  writeFileSync(join(kernel, 'kernel.json'), JSON.stringify(description, null, 2));
  return { ...process.env, JUPYTER_PATH: [folder, process.env.JUPYTER_PATH].filter(Boolean).join(delimiter) };
}

function days(text) {
  const [, first, last = first] = /^([1-7])(?:-([1-7]))?$/.exec(text) ?? [];
  if (!first || last < first)
    throw new Error(`--learner must be a day from 1 to 7, or a range such as 1-5, got '${text}'.`);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(first) + i);
}

/** `day1` or a path; without any, all of them. */
function notebooks(names) {
  const own = join(root, 'notebooks');
  if (names.length === 0)
    return readdirSync(own)
      .filter((name) => name.endsWith('.ipynb'))
      .sort()
      .map((name) => join(own, name));
  return names.map((name) => {
    const path = [resolve(name), join(own, `${name}.ipynb`)].find(
      (path) => path.endsWith('.ipynb') && existsSync(path),
    );
    if (!path) throw new Error(`There is no notebook '${name}'.`);
    return path;
  });
}

/** Runs a notebook as Jupyter does; prints the cell that fails with all it printed (tslab prints type errors). */
const RUNNER = `
import os, sys, nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
source, target = sys.argv[1:]
notebook = nbformat.read(source, 4)
def report(cell, cell_index, execute_reply):
    print(f"Cell {cell.id}:\\n{cell.source}\\n", *(output.get("text", "") for output in cell.outputs), sep="\\n")
client = NotebookClient(notebook, kernel_name="tslab", timeout=300, record_timing=False, on_cell_error=report,
                        resources={"metadata": {"path": os.path.dirname(source)}})
try:
    client.execute()
except CellExecutionError:
    sys.exit(1)
nbformat.write(notebook, target)
`;

/** Runs `work` on the files, `atOnce` at a time. @returns those for which it gives false */
async function executeAll(files, atOnce, work) {
  const failed = [];
  const queue = [...files].reverse().values(); // the later days take longest
  const next = async () => {
    for (const file of queue) if (!(await work(file))) failed.push(file);
  };
  await Promise.all(Array.from({ length: atOnce }, next));
  return failed.sort();
}

/** Runs one notebook in `folder`; `keep` writes the outputs into it. @returns whether every cell ran */
async function execute(python, file, folder, keep, env) {
  const started = Date.now();
  const target = join(folder, basename(file));
  const { status, output } = await collect(python, ['-c', RUNNER, file, target], env);
  const seconds = ((Date.now() - started) / 1000).toFixed(1);
  if (status !== 0) {
    console.error(`✗ ${basename(file)} (${seconds} s)\n${output}`);
    return false;
  }
  if (keep) save(JSON.parse(readFileSync(target, 'utf8')), file);
  console.log(`✓ ${basename(file)} (${seconds} s)`);
  return true;
}

/** @returns {Promise<{ status: number | null, output: string }>} */
function collect(program, args, env) {
  const child = spawn(program, args, { cwd: root, env, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text));
  return new Promise((done, failed) => {
    child.on('error', failed);
    child.on('close', (status) => done({ status, output }));
  });
}

/** Without what differs from run to run or machine to machine and says nothing to a reader. */
function save(notebook, file) {
  notebook.metadata = {
    kernelspec: { display_name: 'TypeScript', language: 'typescript', name: 'tslab' },
    language_info: { file_extension: '.ts', mimetype: 'text/typescript', name: 'typescript' },
  };
  const code = notebook.cells.filter(({ cell_type }) => cell_type === 'code');
  for (const [i, cell] of code.entries()) cell.execution_count = i + 1;
  writeFileSync(file, `${JSON.stringify(notebook, null, 1)}\n`);
}

function open(env) {
  const app = ['jupyterlab', 'notebook'].find((module) => findPython(module));
  if (!app) {
    throw new Error(
      'Opening the notebooks needs JupyterLab or Jupyter Notebook (Debian: jupyter-notebook; PyPI: jupyterlab), which no ' +
        'Python here has. Their outputs are saved: they can be read on GitHub as they are.',
    );
  }
  const { status } = spawnSync(findPython(app), ['-m', app, 'notebooks'], { cwd: root, stdio: 'inherit', env });
  process.exitCode = status ?? 1;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  main().catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
}
