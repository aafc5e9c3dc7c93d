// A sequence's rules: blocks, placeholders, and the moves between waiting, running and finished.
import { describe, expect, test } from 'vitest';
import { PLACEHOLDER, Sequence } from '#nano/engine/sequence';
import { SamplingParams } from '#nano/sampling-params';

const sequence = (length: number, blockSize = 4) =>
  new Sequence(
    Array.from({ length }, (_, i) => 10 + i),
    new SamplingParams(),
    blockSize,
  );

const running = (length: number) => {
  const seq = sequence(length);
  seq.start();
  return seq;
};

test('each sequence has a number of its own', () => {
  const [a, b] = [sequence(1), sequence(1)];
  expect(b.seqId).toBe(a.seqId + 1);
});

test('begins waiting, with its prompt and nothing else', () => {
  const prompt = [5, 6, 7];
  const seq = new Sequence(prompt);
  prompt.push(8); // the caller's list is the caller's
  expect(seq).toMatchObject({
    status: 'waiting',
    tokenIds: [5, 6, 7],
    numPromptTokens: 3,
    numTokens: 3,
    numKnownTokens: 3,
    numOutputTokens: 0,
    outputTokenIds: [],
    blockTable: [],
    tokenSlot: -1,
    requestIndex: 0,
    isFinished: false,
  });
});

describe('blocks', () => {
  test.each([
    [1, 1, 1],
    [3, 1, 3],
    [4, 1, 4],
    [5, 2, 1],
    [8, 2, 4],
    [9, 3, 1],
  ])('%i tokens in blocks of 4 fill %i, the last with %i', (length, numBlocks, last) => {
    const seq = sequence(length);
    expect([seq.numBlocks, seq.lastBlockNumTokens]).toEqual([numBlocks, last]);
    const blocks = Array.from({ length: numBlocks }, (_, i) => seq.block(i));
    expect(blocks.flat()).toEqual(seq.tokenIds);
    expect(blocks.at(-1)).toHaveLength(last);
  });

  test.each([-1, 2, 0.5, Number.NaN])('block %d of two does not exist', (i) => {
    const seq = sequence(6);
    expect(() => seq.block(i)).toThrow(RangeError);
    expect(() => seq.block(i)).toThrow(`Block ${i} does not exist: sequence ${seq.seqId} has blocks 0 to 1.`);
  });
});

describe('placeholders', () => {
  test('count as tokens, are not known, and are filled in the order of the launches', () => {
    const seq = running(2);
    seq.appendPlaceholder();
    seq.appendPlaceholder();
    expect(seq).toMatchObject({
      numTokens: 4,
      numKnownTokens: 2,
      numOutputTokens: 2,
      outputTokenIds: [],
      lastToken: 11,
    });
    seq.fillPlaceholder(70);
    expect(seq.tokenIds).toEqual([10, 11, 70, PLACEHOLDER]);
    expect(seq).toMatchObject({ numKnownTokens: 3, outputTokenIds: [70], lastToken: 70 });
    seq.fillPlaceholder(71);
    expect(seq).toMatchObject({ numPlaceholders: 0, outputTokenIds: [70, 71], lastToken: 71 });
  });

  test('a token that nobody waits for is refused', () => {
    const seq = running(2);
    expect(() => seq.fillPlaceholder(70)).toThrow(`Sequence ${seq.seqId} expects no token, but 70 came.`);
    expect(seq.tokenIds).toEqual([10, 11]);
  });

  test('are dropped when the sequence finishes', () => {
    const seq = running(2);
    seq.appendToken(70);
    seq.appendPlaceholder();
    seq.finish('abort');
    expect(seq).toMatchObject({ tokenIds: [10, 11, 70], numPlaceholders: 0, numTokens: 3 });
  });
});

describe('moves', () => {
  test('waiting, running, waiting again without its cache but with its tokens, running, finished', () => {
    const seq = sequence(5);
    seq.start();
    expect(seq.status).toBe('running');
    seq.appendToken(70);
    Object.assign(seq, { numCachedTokens: 5, numScheduledTokens: 1, blockTable: [3, 4] });
    seq.preempt();
    expect(seq).toMatchObject({ status: 'waiting', numCachedTokens: 0, numScheduledTokens: 0, blockTable: [] });
    expect(seq.outputTokenIds).toEqual([70]);
    seq.start();
    seq.finish('length');
    expect(seq).toMatchObject({ status: 'finished', finishReason: 'length', isFinished: true });
  });

  test('a waiting sequence can finish: its caller may abort it', () => {
    const seq = sequence(5);
    seq.finish('abort');
    expect(seq).toMatchObject({ status: 'finished', finishReason: 'abort' });
  });

  test('a move from the wrong place is refused, and changes nothing', () => {
    const seq = sequence(5);
    const expectRefused = (move: () => void, message: string) =>
      expect(move).toThrow(`Sequence ${seq.seqId} ${message}`);
    seq.blockTable = [3];
    expectRefused(() => seq.preempt(), 'is waiting and cannot go from running to waiting.');
    expect(seq.blockTable).toEqual([3]);
    seq.start();
    expectRefused(() => seq.start(), 'is running and cannot go from waiting to running.');
    seq.finish('stop');
    expectRefused(() => seq.finish('abort'), 'is finished and cannot go from running to finished.');
    expectRefused(() => seq.preempt(), 'is finished and cannot go from running to waiting.');
    expectRefused(() => seq.appendToken(70), 'is finished and cannot take token 70.');
    expect(seq).toMatchObject({ finishReason: 'stop', numTokens: 5 });
  });
});
