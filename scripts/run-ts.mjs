// Runs a TypeScript program that imports this package by its name: `node scripts/run-ts.mjs FILE [arguments]`.
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildSync } from 'esbuild';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const [file, ...args] = process.argv.slice(2);
// Inside the package, so that Node finds `nano-vllm-ts` as the package's own name.
const outfile = join(root, 'dist/scripts', basename(file).replace(/\.ts$/, '.mjs'));
mkdirSync(dirname(outfile), { recursive: true });
buildSync({ entryPoints: [file], outfile, bundle: true, platform: 'node', format: 'esm', packages: 'external' });
process.exitCode = spawnSync(process.execPath, [outfile, ...args], { stdio: 'inherit' }).status ?? 1;
