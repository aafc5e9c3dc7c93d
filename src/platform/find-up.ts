import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** `path` in the nearest folder above this file that has it: `src` and `dist` lie at different depths. */
export function findUp(path: string): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (true) {
    const file = join(folder, path);
    if (existsSync(file) || dirname(folder) === folder) return file;
    folder = dirname(folder);
  }
}
