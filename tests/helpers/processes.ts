import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'vitest';

/** Whether there is still a process, and more of it than an exit code nobody has asked for yet. */
export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  try {
    // "123 (node) Z …": a zombie. Its new parent may never reap it where a container has no init.
    return !/^\d+ \(.*\) [ZX]/s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return process.platform !== 'linux';
  }
}

/** Waits until it holds. The machine may be slow; only what holds in the end is asserted. */
export async function eventually(what: string, holds: () => boolean, seconds = 20): Promise<void> {
  const deadline = Date.now() + seconds * 1000;
  while (!holds() && Date.now() < deadline) await sleep(50);
  expect(holds(), what).toBe(true);
}
