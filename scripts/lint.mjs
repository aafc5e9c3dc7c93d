// Formatting, lint and types of everything; `--fix` formats in place.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { format } from '@wasm-fmt/clang-format';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const fix = process.argv.includes('--fix');
let failed = false;

run('node_modules/@biomejs/biome/bin/biome', ['check', '--error-on-warnings', ...(fix ? ['--write'] : [])]);
run('node_modules/typescript/bin/tsc', ['-p', 'tests', '--noEmit']);
clangFormat();
process.exitCode = failed ? 1 : 0;

function run(script, args) {
  const { status } = spawnSync(process.execPath, [join(root, script), ...args], { cwd: root, stdio: 'inherit' });
  failed ||= status !== 0;
}

/** The formatter as WebAssembly: the same version everywhere, nothing to install. */
function clangFormat() {
  const style = readFileSync(join(root, 'csrc/.clang-format'), 'utf8');
  for (const file of readdirSync(join(root, 'csrc'), { recursive: true })) {
    if (!/\.(cc|h|cu|cuh)$/.test(file)) continue;
    const path = join(root, 'csrc', file);
    const source = readFileSync(path, 'utf8');
    const formatted = format(source, file, style);
    if (formatted === source) continue;
    if (fix) writeFileSync(path, formatted);
    else {
      console.error(`csrc/${file} is not formatted: run \`npm run format\`.`);
      failed = true;
    }
  }
}
