// Loaded beside the tests of a checkpoint: says which check begins. At once, by a message between threads: Vitest's own reports
// are gathered for a while, and a check that never ends would never let them go.
import { BroadcastChannel } from 'node:worker_threads';
import { afterAll, afterEach, beforeEach } from 'vitest';

const channel = new BroadcastChannel('checkpoint');
beforeEach(({ task }) => channel.postMessage({ began: { task: task.suite.name.split(' ')[0], check: task.name } }));
afterEach(() => channel.postMessage({ began: null }));
afterAll(() => channel.close());
channel.postMessage({ began: null });
