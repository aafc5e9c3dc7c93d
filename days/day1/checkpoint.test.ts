import { describe, expect, test } from 'vitest';
import { Config, type ConfigOptions } from '#nano/config';
import { Sequence } from '#nano/engine/sequence';
import { ConfigError, InvalidRequestError } from '#nano/errors';
import { type SamplingOptions, SamplingParams } from '#nano/sampling-params';
import { cumulativeLengths, padBlockTables, slotsFor } from '#nano/utils/context';

/** What `work` throws. Says so when it throws nothing; lets an exercise that is still to do through. */
function thrownBy(work: () => unknown, what: string): Error {
  let result: unknown;
  try {
    result = work();
  } catch (error) {
    if ((error as Error).name === 'TodoError') throw error;
    return error as Error;
  }
  const gave = Array.isArray(result) ? `gave [${result.join(', ')}]` : 'threw none';
  return expect.fail(`${what} should throw an error, but ${gave}`);
}

/** Checks the class of an error, and that its message names every one of `words`. */
function expectRefusal(work: () => unknown, what: string, Class: new (message: string) => Error, words: string[]) {
  const error = thrownBy(work, what);
  expect(error, `the error for ${what}`).toBeInstanceOf(Class);
  for (const word of words) {
    expect(error.message, `the message of the error for ${what}, which should name ${word}`).toContain(word);
  }
}

/** What `work` gives, which is right to ask for: says so when it is refused. */
function accepted<T>(work: () => T, what: string): T {
  try {
    return work();
  } catch (error) {
    if ((error as Error).name === 'TodoError') throw error;
    return expect.fail(`${what} should be accepted, but threw: ${(error as Error).message}`);
  }
}

describe('1.1 Config', () => {
  const DEFAULTS: Required<Omit<ConfigOptions, 'maxModelLen'>> = {
    backend: 'auto',
    dtype: 'auto',
    attnBackend: 'flash',
    maxNumSeqs: 128,
    maxNumBatchedTokens: 2048,
    kvCacheBlockSize: 16,
    numKvCacheBlocks: -1,
    gpuMemoryUtilization: 0.9,
    enablePrefixCaching: true,
    enforceEager: false,
    batchInvariant: false,
    tensorParallelSize: 1,
    seed: 0,
    loadFormat: 'auto',
  };

  test('every option has its default', () => {
    const config = new Config();
    for (const [name, value] of Object.entries(DEFAULTS)) {
      expect(config[name as keyof Config], `the default of ${name}`).toBe(value);
    }
    expect(config.maxModelLen, 'maxModelLen stays undefined: the model will say').toBeUndefined();
  });

  test('a given option is kept, also one that counts as false', () => {
    const given: ConfigOptions = {
      backend: 'reference',
      dtype: 'float32',
      attnBackend: 'sdpa.math',
      maxModelLen: 100,
      maxNumSeqs: 3,
      maxNumBatchedTokens: 64,
      kvCacheBlockSize: 8,
      numKvCacheBlocks: 20,
      gpuMemoryUtilization: 0.5,
      enablePrefixCaching: false,
      enforceEager: true,
      batchInvariant: true,
      tensorParallelSize: 2,
      seed: 7,
      loadFormat: 'dummy',
    };
    const config = new Config(given);
    for (const [name, value] of Object.entries(given)) {
      expect(config[name as keyof Config], `${name}, which was given`).toBe(value);
    }
  });

  test('undefined counts as not given', () => {
    const config = new Config({ maxNumSeqs: undefined, enablePrefixCaching: undefined });
    expect(config.maxNumSeqs, 'maxNumSeqs: undefined takes the default').toBe(128);
    expect(config.enablePrefixCaching, 'enablePrefixCaching: undefined takes the default').toBe(true);
  });

  test('a value out of range is refused by name', () => {
    const wrong: [ConfigOptions, string, string][] = [
      [{ maxNumSeqs: 0 }, 'maxNumSeqs', '0'],
      [{ maxNumSeqs: 1.5 }, 'maxNumSeqs', '1.5'],
      [{ kvCacheBlockSize: -16 }, 'kvCacheBlockSize', '-16'],
      [{ numKvCacheBlocks: 0 }, 'numKvCacheBlocks', '0'],
      [{ maxModelLen: Number.NaN }, 'maxModelLen', 'NaN'],
      [{ backend: 'gpu' as 'cuda' }, 'backend', 'gpu'],
      [{ enforceEager: 1 as unknown as boolean }, 'enforceEager', '1'],
      [{ maxNumSequences: 4 } as ConfigOptions, 'maxNumSequences', 'maxNumSeqs'],
    ];
    for (const [options, name, value] of wrong) {
      expectRefusal(() => new Config(options), JSON.stringify(options), ConfigError, [name, value]);
    }
  });

  test('a decode step must have room for one token of each running request', () => {
    const what = 'maxNumSeqs 9 with maxNumBatchedTokens 8';
    const words = ['maxNumSeqs', 'maxNumBatchedTokens', '9', '8'];
    expectRefusal(() => new Config({ maxNumSeqs: 9, maxNumBatchedTokens: 8 }), what, ConfigError, words);
    const byDefault = 'maxNumSeqs 2049 with the default of maxNumBatchedTokens';
    expectRefusal(() => new Config({ maxNumSeqs: 2049 }), byDefault, ConfigError, ['2049', '2048']);
    const eight = accepted(() => new Config({ maxNumSeqs: 8, maxNumBatchedTokens: 8 }), 'maxNumSeqs 8 of 8 tokens');
    expect(eight.maxNumSeqs, 'maxNumSeqs, given as 8').toBe(8);
    const small = accepted(() => new Config({ maxNumBatchedTokens: 32 }), 'maxNumBatchedTokens 32 alone');
    expect(small.maxNumSeqs, 'the default of maxNumSeqs never exceeds maxNumBatchedTokens').toBe(32);
  });

  test('the cache must hold one request of maxModelLen', () => {
    const cache = { numKvCacheBlocks: 4, kvCacheBlockSize: 16 };
    const what = 'maxModelLen 65 in 4 blocks of 16';
    const words = ['maxModelLen', 'numKvCacheBlocks', '65', '64'];
    expectRefusal(() => new Config({ ...cache, maxModelLen: 65 }), what, ConfigError, words);
    const byDefault = 'maxModelLen 17 in 1 block of the default size';
    expectRefusal(() => new Config({ numKvCacheBlocks: 1, maxModelLen: 17 }), byDefault, ConfigError, ['17', '16']);
    const full = accepted(() => new Config({ ...cache, maxModelLen: 64 }), 'maxModelLen 64 in 4 blocks of 16');
    expect(full.maxModelLen, 'maxModelLen, given as 64').toBe(64);
    const open = accepted(() => new Config(cache), '4 blocks of 16, with no maxModelLen to compare,');
    expect(open.numKvCacheBlocks, 'numKvCacheBlocks, given as 4').toBe(4);
    // -1, given or by default: the cache is not sized yet.
    for (const unsized of [{}, { numKvCacheBlocks: -1 }]) {
      const options = { ...unsized, maxModelLen: 4096 };
      const config = accepted(() => new Config(options), `${JSON.stringify(options)}, a cache not sized yet,`);
      expect(config.numKvCacheBlocks, 'numKvCacheBlocks of a cache not sized yet').toBe(-1);
    }
  });
});

describe('1.2 SamplingParams', () => {
  test('every parameter has its default', () => {
    const params = new SamplingParams();
    const expected = { temperature: 1, topK: 0, topP: 1, minP: 0, maxTokens: 64, ignoreEos: false };
    for (const [name, value] of Object.entries(expected)) {
      expect(params[name as keyof SamplingParams], `the default of ${name}`).toBe(value);
    }
    expect(params.stop, 'the default of stop').toEqual([]);
    expect(params.stopTokenIds, 'the default of stopTokenIds').toEqual([]);
    expect(params.seed, 'no seed given: the engine will derive one').toBeUndefined();
    expect(params.logprobs, 'no logprobs asked for').toBeUndefined();
  });

  test('a given parameter is kept, also one that counts as false', () => {
    const given: SamplingOptions = {
      temperature: 0,
      topK: 40,
      topP: 0.9,
      minP: 0.05,
      maxTokens: 1,
      stop: ['END', '\n\n'],
      stopTokenIds: [0, 7],
      ignoreEos: true,
      seed: 0,
      logprobs: 0,
    };
    const params = new SamplingParams(given);
    for (const [name, value] of Object.entries(given)) {
      expect(params[name as keyof SamplingParams], `${name}, which was given`).toEqual(value);
    }
  });

  test('one stop string becomes a list of one', () => {
    const options: SamplingOptions = { stop: 'END' };
    expect(new SamplingParams(options).stop, "stop: 'END'").toEqual(['END']);
    expect(options.stop, "the caller's object stays as it was").toBe('END');
  });

  test('temperature 0 is greedy, and nothing else is', () => {
    expect(new SamplingParams({ temperature: 0 }).isGreedy, 'temperature 0').toBe(true);
    expect(new SamplingParams({ temperature: 0.01 }).isGreedy, 'temperature 0.01').toBe(false);
    expect(new SamplingParams().isGreedy, 'the default temperature').toBe(false);
  });

  test('a value out of range is refused by name', () => {
    const wrong: [SamplingOptions, string, string][] = [
      [{ temperature: -1 }, 'temperature', '-1'],
      [{ temperature: 0.001 }, 'temperature', '0.001'],
      [{ topK: 2.5 }, 'topK', '2.5'],
      [{ topP: 0 }, 'topP', '0'],
      [{ topP: 1.1 }, 'topP', '1.1'],
      [{ minP: -0.1 }, 'minP', '-0.1'],
      [{ maxTokens: 0 }, 'maxTokens', '0'],
      [{ stop: '' }, 'stop', '""'],
      [{ stop: ['END', ''] }, 'stop', 'END'],
      [{ stopTokenIds: [-1] }, 'stopTokenIds', '-1'],
      [{ logprobs: 21 }, 'logprobs', '21'],
      [{ maxToken: 5 } as SamplingOptions, 'maxToken', 'maxTokens'],
    ];
    for (const [options, name, value] of wrong) {
      const what = JSON.stringify(options);
      expectRefusal(() => new SamplingParams(options), what, InvalidRequestError, [name, value]);
    }
  });
});

/** A sequence with tokens 100, 101, …; it needs no sampling parameters, so tasks can be tested one by one. */
function sequenceOf(length: number, blockSize: number): Sequence {
  const tokens = Array.from({ length }, (_, i) => 100 + i);
  return new Sequence(tokens, {} as SamplingParams, blockSize);
}

describe('1.3 Blocks of a sequence', () => {
  test('numBlocks rounds up', () => {
    const cases: [tokens: number, blockSize: number, blocks: number][] = [
      [1, 16, 1],
      [15, 16, 1],
      [16, 16, 1],
      [17, 16, 2],
      [32, 16, 2],
      [33, 16, 3],
      [5, 1, 5],
      [7, 3, 3],
      [0, 16, 0],
    ];
    for (const [tokens, blockSize, blocks] of cases) {
      const { numBlocks } = sequenceOf(tokens, blockSize);
      expect(numBlocks, `numBlocks of ${tokens} tokens in blocks of ${blockSize}`).toBe(blocks);
    }
  });

  test('numBlocks counts the output too', () => {
    const seq = sequenceOf(16, 16);
    seq.tokenIds.push(7);
    expect(seq.numBlocks, 'numBlocks after a 17th token, in blocks of 16').toBe(2);
  });

  test('lastBlockNumTokens is 1 to blockSize', () => {
    const cases: [tokens: number, blockSize: number, last: number][] = [
      [1, 16, 1],
      [15, 16, 15],
      [16, 16, 16],
      [17, 16, 1],
      [32, 16, 16],
      [4, 1, 1],
      [8, 3, 2],
    ];
    for (const [tokens, blockSize, last] of cases) {
      const { lastBlockNumTokens } = sequenceOf(tokens, blockSize);
      expect(lastBlockNumTokens, `tokens in the last block: ${tokens} in blocks of ${blockSize}`).toBe(last);
    }
  });

  test('block(i) gives the tokens of block i', () => {
    const seq = sequenceOf(10, 4);
    expect(seq.block(0), 'block 0 of 10 tokens in blocks of 4').toEqual([100, 101, 102, 103]);
    expect(seq.block(1), 'block 1 of 10 tokens in blocks of 4').toEqual([104, 105, 106, 107]);
    expect(seq.block(2), 'block 2, the last, is not full').toEqual([108, 109]);
    expect(sequenceOf(8, 4).block(1), 'the last block of 8 tokens is full').toEqual([104, 105, 106, 107]);
  });

  test('block(i) is a copy', () => {
    const seq = sequenceOf(4, 4);
    seq.block(0).push(9);
    expect(seq.tokenIds, 'the tokens, after block(0) was changed by its caller').toEqual([100, 101, 102, 103]);
  });

  test('the blocks one after the other are the tokens', () => {
    for (const blockSize of [1, 2, 5, 16]) {
      for (let length = 1; length <= 40; length++) {
        const seq = sequenceOf(length, blockSize);
        const blocks = Array.from({ length: seq.numBlocks }, (_, i) => seq.block(i));
        expect(blocks.flat(), `all blocks of ${length} tokens in blocks of ${blockSize}`).toEqual(seq.tokenIds);
        const what = `lastBlockNumTokens of ${length} tokens in blocks of ${blockSize}`;
        expect(seq.lastBlockNumTokens, what).toBe(blocks.at(-1)?.length);
      }
    }
  });

  test('a block that does not exist is refused', () => {
    const seq = sequenceOf(8, 4);
    for (const i of [-1, 2, 0.5, Number.NaN]) {
      expectRefusal(() => seq.block(i), `block(${i}) of 2 blocks`, RangeError, [String(i)]);
    }
    expectRefusal(() => sequenceOf(0, 4).block(0), 'block(0) of an empty sequence', RangeError, ['0']);
  });
});

describe('1.4 States of a sequence', () => {
  const running = (): Sequence => {
    const seq = sequenceOf(5, 4);
    seq.start();
    return seq;
  };
  const named = (seq: Sequence) => [String(seq.seqId), seq.status];

  test('a request that is served: waiting, running, finished', () => {
    const seq = sequenceOf(5, 4);
    expect(seq.status, 'a new sequence').toBe('waiting');
    seq.start();
    expect(seq.status, 'after start()').toBe('running');
    seq.finish('stop');
    expect(seq.status, 'after finish()').toBe('finished');
    expect(seq.isFinished, 'isFinished').toBe(true);
    expect(seq.finishReason, 'the reason given').toBe('stop');
  });

  test('a request can be aborted while it waits', () => {
    const seq = sequenceOf(5, 4);
    seq.finish('abort');
    expect(seq.status).toBe('finished');
    expect(seq.finishReason).toBe('abort');
  });

  test('appendToken adds output after the prompt', () => {
    const seq = running();
    seq.appendToken(7);
    seq.appendToken(0);
    expect(seq.tokenIds, 'prompt and output').toEqual([100, 101, 102, 103, 104, 7, 0]);
    expect(seq.outputTokenIds, 'the output').toEqual([7, 0]);
    expect(seq.numPromptTokens, 'the prompt is as long as before').toBe(5);
    expect(seq.lastToken, 'the last token').toBe(0);
  });

  test('a finished sequence takes no token', () => {
    const seq = running();
    seq.finish('length');
    expectRefusal(() => seq.appendToken(4711), 'a token after finish()', Error, [String(seq.seqId), '4711']);
    expect(seq.numTokens, 'the tokens stay as they were').toBe(5);
  });

  test('preempt forgets the cache and keeps every token', () => {
    const seq = running();
    seq.appendToken(7);
    seq.blockTable = [3, 9];
    seq.numCachedTokens = 5;
    seq.numScheduledTokens = 1;
    seq.preempt();
    expect(seq.status, 'after preempt()').toBe('waiting');
    expect(seq.blockTable, 'its blocks belong to others now').toEqual([]);
    expect(seq.numCachedTokens, 'nothing is in the cache').toBe(0);
    expect(seq.numScheduledTokens, 'nothing is planned').toBe(0);
    expect(seq.tokenIds, 'prompt and output stay').toEqual([100, 101, 102, 103, 104, 7]);
    expect(seq.numPromptTokens, 'the output does not become prompt').toBe(5);
  });

  test('a preempted sequence comes back and goes on', () => {
    const seq = running();
    seq.appendToken(7);
    seq.preempt();
    seq.start();
    seq.appendToken(8);
    expect(seq.status).toBe('running');
    expect(seq.outputTokenIds, 'output from before and after').toEqual([7, 8]);
  });

  test('a move that makes no sense is refused, with the sequence and its status in the message', () => {
    const again = running();
    expectRefusal(() => again.start(), 'start() of a running sequence', Error, named(again));
    const done = running();
    done.finish('stop');
    expectRefusal(() => done.start(), 'start() of a finished sequence', Error, named(done));
    expectRefusal(() => done.preempt(), 'preempt() of a finished sequence', Error, named(done));
    expectRefusal(() => done.finish('abort'), 'finish() of a finished sequence', Error, named(done));
    expect(done.finishReason, 'a refused finish() leaves the reason').toBe('stop');
  });

  test('a refused preempt changes nothing', () => {
    const seq = sequenceOf(5, 4);
    seq.blockTable = [3, 9];
    seq.numCachedTokens = 4;
    expectRefusal(() => seq.preempt(), 'preempt() of a waiting sequence', Error, named(seq));
    expect(seq.status, 'the status').toBe('waiting');
    expect(seq.blockTable, 'the block table').toEqual([3, 9]);
    expect(seq.numCachedTokens, 'the cached tokens').toBe(4);
  });
});

describe('1.5 Describing a batch', () => {
  test('cumulativeLengths: lengths become ranges', () => {
    expect(cumulativeLengths([3, 1, 2]), 'cumulativeLengths([3, 1, 2])').toEqual(Int32Array.of(0, 3, 4, 6));
    expect(cumulativeLengths([5]), 'cumulativeLengths([5])').toEqual(Int32Array.of(0, 5));
    expect(cumulativeLengths([2, 0, 4]), 'an empty sequence between two').toEqual(Int32Array.of(0, 2, 2, 6));
    expect(cumulativeLengths([]), 'no sequence at all').toEqual(Int32Array.of(0));
  });

  test('cumulativeLengths leaves its argument alone', () => {
    const lengths = [3, 1, 2];
    cumulativeLengths(lengths);
    expect(lengths).toEqual([3, 1, 2]);
  });

  test('slotsFor: tokens of one block', () => {
    expect(slotsFor([0], 0, 3, 4), 'tokens 0 to 2 in block 0').toEqual([0, 1, 2]);
    expect(slotsFor([5], 0, 4, 4), 'a full block 5').toEqual([20, 21, 22, 23]);
    expect(slotsFor([5], 2, 3, 4), 'only token 2').toEqual([22]);
  });

  test('slotsFor: tokens over several blocks, which need not ascend', () => {
    expect(slotsFor([5, 2, 9], 0, 10, 4), 'blocks 5, 2, 9').toEqual([20, 21, 22, 23, 8, 9, 10, 11, 36, 37]);
    expect(slotsFor([5, 2, 9], 3, 9, 4), 'from the end of block 5 into block 9').toEqual([23, 8, 9, 10, 11, 36]);
    expect(slotsFor([5, 2, 9], 8, 10, 4), 'only the third block').toEqual([36, 37]);
    expect(slotsFor([7, 3, 4], 0, 3, 1), 'blocks of one token').toEqual([7, 3, 4]);
  });

  test('slotsFor: no tokens', () => {
    expect(slotsFor([5], 4, 4, 4), 'start = end').toEqual([]);
    expect(slotsFor([], 0, 0, 4), 'no blocks, no tokens').toEqual([]);
  });

  test('padBlockTables: a rectangle, short rows filled with -1', () => {
    const tables = [[4], [7, 0, 2], [], [1, 3]];
    const { values, width } = padBlockTables(tables);
    expect(width, 'the longest table').toBe(3);
    expect(values, 'row after row').toEqual(Int32Array.of(4, -1, -1, 7, 0, 2, -1, -1, -1, 1, 3, -1));
    expect(tables, 'the tables stay as they were').toEqual([[4], [7, 0, 2], [], [1, 3]]);
  });

  test('padBlockTables: at least one column', () => {
    expect(padBlockTables([[], []]), 'two empty tables').toEqual({ values: Int32Array.of(-1, -1), width: 1 });
    expect(padBlockTables([]), 'no tables').toEqual({ values: new Int32Array(0), width: 1 });
  });
});
