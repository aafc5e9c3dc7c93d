// Decode steps where there are no device graphs: what is recorded and kept, and how far attention looks.
import { describe, expect, test, vi } from 'vitest';
import { ReferenceBackend } from '#nano/backends/reference/index';
import type { ConfigOptions } from '#nano/config';
import { makeRunner, sequence } from './helpers/tiny-runner';

function setup(options: ConfigOptions & { padDecodeBatches?: boolean } = {}) {
  const backend = new ReferenceBackend();
  const { runner, ops } = makeRunner(backend, { maxNumSeqs: 40, ...options });
  const recorded = vi.spyOn(ops, 'record');
  const attended = vi.spyOn(backend, 'attnWithKvCache');
  runner.allocateKvCache(40);
  /** A decode step of so many sequences, of these lengths and then of one token. */
  const decode = (count: number, lengths: number[] = []) => {
    const seqs = Array.from({ length: count }, (_, i) =>
      sequence(Array(lengths[i] ?? 1).fill(1), { blockTable: Array(6).fill(i), tokenSlot: i }),
    );
    return runner.launch({ isPrefill: false, seqs, numDrawing: count });
  };
  /** Rows, and keys the longest may have, of the last step. */
  const last = () => {
    const step = attended.mock.lastCall;
    return { rows: step?.[0].shape[0], maxContextLen: step?.[4].maxContextLen };
  };
  return { runner, recorded, decode, last };
}

describe('recordings', () => {
  test('are made when a batch size is first met, and replayed from then on', async () => {
    const { recorded, decode } = setup();
    expect(recorded).not.toHaveBeenCalled();
    for (const count of [3, 5, 3, 5, 3]) await decode(count);
    expect(recorded).toHaveBeenCalledTimes(2);
  });

  test('32 are kept; the one used longest ago makes room', async () => {
    const { recorded, decode } = setup();
    for (let count = 1; count <= 32; count++) await decode(count);
    await decode(1);
    expect(recorded).toHaveBeenCalledTimes(32);
    await decode(33); // in the place of 2
    await decode(1);
    expect(recorded).toHaveBeenCalledTimes(33);
    await decode(2);
    expect(recorded).toHaveBeenCalledTimes(34);
  });

  test('are forgotten when the runner is closed', async () => {
    const { runner, recorded, decode } = setup();
    await decode(2);
    runner.close();
    await decode(2);
    expect(recorded).toHaveBeenCalledTimes(2);
  });

  test('look as far as the longest sequence there can be', async () => {
    const { decode, last } = setup({ maxModelLen: 24 });
    await decode(2, [5, 9]);
    expect(last()).toEqual({ rows: 2, maxContextLen: 24 });
  });

  test('are of the batch itself, or of the next size where batches are padded', async () => {
    const [exact, padded] = [setup(), setup({ padDecodeBatches: true })];
    for (const { decode } of [exact, padded]) await decode(5);
    expect([exact.last().rows, padded.last().rows]).toEqual([5, 8]);
    await padded.decode(8);
    expect([padded.last().rows, padded.recorded.mock.calls.length]).toEqual([8, 1]);
  });
});

test('a step that is not recorded looks as far as the longest sequence in it', async () => {
  const { recorded, decode, last } = setup({ enforceEager: true });
  await decode(3, [5, 9, 7]);
  expect(last()).toEqual({ rows: 3, maxContextLen: 9 });
  expect(recorded).not.toHaveBeenCalled();
});
