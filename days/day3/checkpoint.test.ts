import { beforeEach, describe, expect, test } from 'vitest';
import {
  type Attend,
  attnVarlen,
  attnWithKvCache,
  flash,
  type KeyStart,
  sdpaMath,
  storeKvCache,
} from '#nano/backends/reference/attention';
import { type Block, BlockManager } from '#nano/engine/block-manager';
import { Sequence } from '#nano/engine/sequence';
import { InvalidTensorError } from '#nano/errors';
import type { SamplingParams } from '#nano/sampling-params';
import { bfloat16Bits, bfloat16FromBits } from '#nano/tensor/dtype';
import { contiguousStrides, type Storage, Tensor } from '#nano/tensor/tensor';

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
/** Ends the message of a check on random numbers. */
const again = `(the same numbers again: SEED=${seed} npm run checkpoint -- 3)`;
let state = 0;
// Every test begins with the seed, so that it gets the same numbers alone and after others.
beforeEach(() => {
  state = seed | 1;
});

/** In (0, 1): a 32-bit xorshift. */
function uniform(): number {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return ((state >>> 0) + 0.5) / 2 ** 32;
}
const below = (n: number): number => Math.floor(n * uniform());
/** Standard normal numbers (Box-Muller) that float32 holds exactly. */
const normals = (count: number): number[] =>
  range(count).map(() => Math.fround(Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform())));

const range = (count: number, first = 0): number[] => Array.from({ length: count }, (_, i) => first + i);

/** A sequence with these tokens, or with so many: 100, 101, … */
function sequenceOf(tokens: number | readonly number[], blockSize = 4): Sequence {
  return new Sequence(typeof tokens === 'number' ? range(tokens, 100) : tokens, {} as SamplingParams, blockSize);
}

/** What `work` throws. Says so when it throws nothing; lets an exercise that is still to do through. */
function thrownBy(work: () => unknown, what: string): Error {
  try {
    work();
  } catch (error) {
    if ((error as Error).name === 'TodoError') throw error;
    return error as Error;
  }
  return expect.fail(`${what} should throw an error, but threw none`);
}

/** The methods of the block manager that only it and this test call. */
interface Inside {
  findPrefix(seq: Sequence): Block[];
}
const inside = (manager: BlockManager) => manager as unknown as Inside;

/** From now on the manager believes that these blocks hold what every new sequence begins with (task 3.3 is not needed). */
function pretendKnown(manager: BlockManager, ids: readonly number[]): void {
  inside(manager).findPrefix = () => ids.map((id) => manager.blocks[id]);
}

const references = (manager: BlockManager) => manager.blocks.map((block) => block.refCount);

/** Compares references and free blocks with what block tables say. */
function expectBooks(manager: BlockManager, tables: Iterable<readonly number[]>, when: string): void {
  const uses = new Array<number>(manager.numBlocks).fill(0);
  for (const table of tables) for (const id of table) uses[id]++;
  expect(references(manager), `refCount of each block ${when}`).toEqual(uses);
  expect(manager.numFreeBlocks, `free blocks ${when}`).toBe(uses.filter((count) => count === 0).length);
}

describe('3.1 Blocks: allocate and give back', () => {
  const without = (numBlocks: number) => new BlockManager(numBlocks, 4, false); // no prefix caching

  test('as many blocks as the tokens fill, the last one perhaps in part', () => {
    for (const [tokens, blocks] of [
      [1, 1],
      [3, 1],
      [4, 1],
      [5, 2],
      [8, 2],
      [9, 3],
    ]) {
      const manager = without(8);
      const seq = sequenceOf(tokens);
      expect(manager.allocate(seq), `allocate ${tokens} tokens in blocks of 4: there is room`).toBe(true);
      expect(seq.blockTable.length, `blocks for ${tokens} tokens in blocks of 4`).toBe(blocks);
      expect(new Set(seq.blockTable).size, 'different blocks').toBe(blocks);
      expect(seq.numCachedTokens, 'numCachedTokens: nothing was known').toBe(0);
      expectBooks(manager, [seq.blockTable], `after allocating ${tokens} tokens`);
    }
  });

  test('down to the last free block, and no further', () => {
    const manager = without(3);
    const seq = sequenceOf(12);
    expect(manager.allocate(seq), 'allocate 12 tokens: 3 blocks where 3 are free').toBe(true);
    expect(manager.numFreeBlocks, 'free blocks left').toBe(0);
    expect(manager.allocate(sequenceOf(1)), 'allocate 1 token with no block free').toBe(false);
  });

  test('a refusal changes nothing', () => {
    const manager = without(4);
    const [a, b] = [sequenceOf(5), sequenceOf(9)];
    manager.allocate(a);
    expect(manager.allocate(b), 'allocate 3 blocks where 2 are free').toBe(false);
    expect(b.blockTable, 'the block table of the refused sequence').toEqual([]);
    expect(b.numCachedTokens, 'the cached tokens of the refused sequence').toBe(0);
    expectBooks(manager, [a.blockTable], 'after the refusal');
    expect(manager.allocate(sequenceOf(8)), 'allocate 2 blocks where 2 are free').toBe(true);
  });

  test('no two sequences get the same block', () => {
    const manager = without(9);
    const seqs = [5, 9, 3, 10].map((tokens) => sequenceOf(tokens));
    for (const seq of seqs) expect(manager.allocate(seq), 'allocate where there is room').toBe(true);
    expect(seqs.flatMap((seq) => seq.blockTable).sort(), 'the blocks of all sequences together: 9, each once').toEqual(
      range(9),
    );
  });

  test('deallocate gives every block back, and allocate can use them again', () => {
    const manager = without(4);
    const seq = sequenceOf(13);
    for (let round = 1; round <= 3; round++) {
      expect(manager.allocate(seq), `allocate 4 blocks where 4 are free, round ${round}`).toBe(true);
      seq.numCachedTokens = 13;
      manager.deallocate(seq);
      expect(seq.blockTable, 'the block table after deallocate').toEqual([]);
      expect(seq.numCachedTokens, 'numCachedTokens after deallocate').toBe(0);
      expectBooks(manager, [], `after deallocate, round ${round}`);
    }
  });

  test('the block that has been free the longest is reused first, and of a sequence its last', () => {
    const manager = without(6);
    const [a, b, all] = [sequenceOf(8), sequenceOf(8), sequenceOf(24)];
    manager.allocate(a);
    manager.allocate(b);
    const [tableA, tableB] = [[...a.blockTable], [...b.blockTable]];
    manager.deallocate(b);
    manager.deallocate(a);
    manager.allocate(all);
    const expected = [...tableB.reverse(), ...tableA.reverse()];
    expect(all.blockTable.slice(2), `after 2 blocks never used: b's, then a's, each from its last`).toEqual(expected);
  });

  test('a known block is shared: one reference more, and no block less', () => {
    const manager = without(6);
    const [a, b] = [sequenceOf(10), sequenceOf(14)];
    manager.allocate(a);
    pretendKnown(manager, a.blockTable.slice(0, 2));
    expect(manager.allocate(b), 'allocate 4 blocks, 2 of them known and in use, where 3 are free').toBe(true);
    expect(b.blockTable.slice(0, 2), 'b begins with the known blocks').toEqual(a.blockTable.slice(0, 2));
    expect(b.blockTable.length, 'blocks for 14 tokens').toBe(4);
    expect(b.numCachedTokens, 'numCachedTokens: 2 known blocks of 4').toBe(8);
    expectBooks(manager, [a.blockTable, b.blockTable], 'after sharing 2 blocks');
  });

  test('a shared block is free only when its last user has given it back', () => {
    const manager = without(6);
    const seqs = [sequenceOf(9), sequenceOf(10), sequenceOf(11)];
    manager.allocate(seqs[0]);
    pretendKnown(manager, seqs[0].blockTable.slice(0, 2));
    manager.allocate(seqs[1]);
    manager.allocate(seqs[2]);
    const tables = seqs.map((seq) => [...seq.blockTable]);
    manager.deallocate(seqs[0]);
    expectBooks(manager, tables.slice(1), 'after the first of three users left');
    pretendKnown(manager, []);
    const other = sequenceOf(8);
    expect(manager.allocate(other), 'allocate 2 blocks, which are free now').toBe(true);
    const inUse = other.blockTable.filter((id) => tables[1].includes(id) || tables[2].includes(id));
    expect(inUse, 'blocks in use that were given to another sequence').toEqual([]);
    manager.deallocate(other);
    manager.deallocate(seqs[2]);
    expectBooks(manager, [tables[1]], 'with one user left');
    manager.deallocate(seqs[1]);
    expectBooks(manager, [], 'after the last user left');
  });

  test('a known block that is free comes back into use', () => {
    const manager = without(4);
    const [a, b] = [sequenceOf(9), sequenceOf(9)];
    manager.allocate(a);
    const known = a.blockTable.slice(0, 2);
    manager.deallocate(a);
    pretendKnown(manager, known);
    expect(manager.allocate(b), 'allocate 3 blocks, 2 of them known and free, where 4 are free').toBe(true);
    expectBooks(manager, [b.blockTable], 'after taking 2 free blocks back');
    pretendKnown(manager, []);
    const other = sequenceOf(4);
    expect(manager.allocate(other), 'allocate the one block that is left').toBe(true);
    expect(b.blockTable, "b's blocks, which the other must not get").not.toContain(other.blockTable[0]);
  });

  test('known blocks that are free count as free blocks that are needed', () => {
    const manager = without(3);
    const [a, b, c] = [sequenceOf(8), sequenceOf(4), sequenceOf(12)];
    manager.allocate(a);
    manager.allocate(b);
    pretendKnown(manager, a.blockTable);
    manager.deallocate(a);
    let result: unknown;
    try {
      result = manager.allocate(c);
    } catch (error) {
      if ((error as Error).name === 'TodoError') throw error;
      result = error;
    }
    expect(result, 'allocate 3 blocks, of which 2 are known, where only those 2 are free').toBe(false);
    expect(c.blockTable, 'the block table after the refusal').toEqual([]);
    expectBooks(manager, [b.blockTable], 'after the refusal');
  });

  test('known blocks are not given away while the rest is taken', () => {
    const manager = without(4);
    const [a, last, b, c] = [sequenceOf(8), sequenceOf(4), sequenceOf(4), sequenceOf(9)];
    manager.allocate(a);
    manager.allocate(last);
    const known = [...a.blockTable];
    const unknown = last.blockTable[0];
    manager.allocate(b);
    manager.deallocate(a); // free: a's two blocks, then
    manager.deallocate(last); // this one
    pretendKnown(manager, known);
    expect(manager.allocate(c), 'allocate 3 blocks, 2 of them known and free, where 3 are free').toBe(true);
    expect(c.blockTable, 'the two known blocks, then the one that was free beside them').toEqual([...known, unknown]);
    expectBooks(manager, [b.blockTable, c.blockTable], 'afterwards');
  });

  test('a block that is taken is forgotten: it will hold something else', () => {
    const manager = new BlockManager(2, 4);
    pretendKnown(manager, []);
    for (const block of manager.blocks) block.content = { hash: block.id, tokenIds: range(4), prefix: null };
    expect(manager.allocate(sequenceOf(5)), 'allocate 2 blocks where 2 are free').toBe(true);
    const contents = manager.blocks.map((block) => block.content);
    expect(contents, 'the known content of the blocks that were taken').toEqual([null, null]);
  });

  test('the books are right after any work', () => {
    const manager = without(12);
    const seqs = new Map<Sequence, number[]>();
    for (let step = 0; step < 400; step++) {
      const owners = [...seqs.keys()];
      if (uniform() < 0.6) {
        const seq = sequenceOf(1 + below(18));
        const donor = owners[below(owners.length)]?.blockTable ?? [];
        pretendKnown(manager, donor.slice(0, below(Math.min(donor.length, seq.numBlocks - 1) + 1)));
        if (manager.allocate(seq)) seqs.set(seq, [...seq.blockTable]);
      } else if (owners.length > 0) {
        const seq = owners[below(owners.length)];
        manager.deallocate(seq);
        seqs.delete(seq);
      }
      expectBooks(manager, seqs.values(), `after step ${step} ${again}`);
    }
  });
});

describe('3.2 A slot for the next token', () => {
  test('a new block when a token is the first of one', () => {
    for (const blockSize of [1, 3, 4, 16]) {
      const manager = new BlockManager(40, blockSize, false);
      const seq = sequenceOf(0, blockSize);
      for (let tokens = 1; tokens <= 40; tokens++) {
        const before = [...seq.blockTable];
        seq.appendToken(tokens);
        expect(manager.appendSlot(seq), `appendSlot for token number ${tokens}: blocks are free`).toBe(true);
        const what = `blocks of ${tokens} tokens in blocks of ${blockSize}`;
        expect(seq.blockTable.length, what).toBe(Math.ceil(tokens / blockSize));
        expect(seq.blockTable.slice(0, before.length), 'the blocks it had stay where they were').toEqual(before);
      }
      expectBooks(manager, [seq.blockTable], `after 40 tokens in blocks of ${blockSize}`);
    }
  });

  test('asked twice, it takes nothing twice', () => {
    const manager = new BlockManager(4, 4, false);
    const seq = sequenceOf(1);
    for (let i = 1; i <= 3; i++) expect(manager.appendSlot(seq), `appendSlot for the same token, time ${i}`).toBe(true);
    expect(seq.blockTable.length, 'blocks of 1 token').toBe(1);
    expect(manager.numFreeBlocks, 'free blocks').toBe(3);
  });

  test('no new block while the last has room', () => {
    const manager = new BlockManager(4, 4, false);
    for (const tokens of [5, 6, 7, 8]) {
      const seq = sequenceOf(tokens);
      seq.blockTable = [2, 0];
      expect(manager.appendSlot(seq), `${tokens} tokens in 2 blocks of 4`).toBe(true);
      expect(seq.blockTable, `the block table of ${tokens} tokens`).toEqual([2, 0]);
    }
    expect(manager.numFreeBlocks, 'free blocks').toBe(4);
  });

  test('false, with nothing changed, when a block is needed and none is free', () => {
    const manager = new BlockManager(1, 4, false);
    const seq = sequenceOf(0);
    for (let tokens = 1; tokens <= 4; tokens++) {
      seq.appendToken(tokens);
      expect(
        manager.appendSlot(seq),
        `token ${tokens} of 4: ${tokens > 1 ? 'its block is there' : 'one is free'}`,
      ).toBe(true);
    }
    seq.appendToken(5);
    const table = [...seq.blockTable];
    let result: unknown;
    try {
      result = manager.appendSlot(seq);
    } catch (error) {
      if ((error as Error).name === 'TodoError') throw error;
      result = error;
    }
    expect(result, 'appendSlot for token 5, with no block free').toBe(false);
    expect(seq.blockTable, 'the block table after the refusal').toEqual(table);
    expectBooks(manager, [table], 'after the refusal');
  });

  test('sequences that grow side by side get blocks of their own', () => {
    const manager = new BlockManager(12, 4, false);
    const seqs = [sequenceOf(0), sequenceOf(0), sequenceOf(0)];
    for (let i = 0; i < 16; i++) {
      for (const seq of seqs) {
        seq.appendToken(i);
        manager.appendSlot(seq);
      }
    }
    expect(
      seqs.flatMap((seq) => seq.blockTable).sort((x, y) => x - y),
      'all blocks, each once',
    ).toEqual(range(12));
  });
});

describe('3.3 Prefix caching: the hash chain', () => {
  /** As if a sequence with these tokens had been computed in these blocks. */
  function compute(manager: BlockManager, tokens: readonly number[], table: readonly number[], known = tokens.length) {
    const seq = sequenceOf(tokens, manager.blockSize);
    seq.blockTable = [...table];
    seq.numCachedTokens = known;
    manager.cacheFullBlocks(seq, known);
    return seq;
  }
  const found = (manager: BlockManager, tokens: readonly number[]) =>
    inside(manager)
      .findPrefix(sequenceOf(tokens, manager.blockSize))
      .map((block) => block.id);

  test('the full blocks of a computed sequence are found again, in order', () => {
    const manager = new BlockManager(8, 4);
    compute(manager, range(10), [5, 2, 7]);
    expect(found(manager, range(10)), 'blocks for the same 10 tokens: 2 full ones').toEqual([5, 2]);
    expect(found(manager, range(40)), 'blocks for a longer prompt that begins alike').toEqual([5, 2]);
    expect(found(manager, range(6)), 'blocks for the first 6 of the tokens').toEqual([5]);
  });

  test('they are found only as far as the tokens agree', () => {
    const manager = new BlockManager(8, 4);
    compute(manager, range(12), [5, 2, 7]);
    const changed = (at: number) => range(13).map((token, i) => (i === at ? 99 : token));
    expect(found(manager, changed(12)), 'token 12 differs: 3 blocks').toEqual([5, 2, 7]);
    expect(found(manager, changed(8)), 'token 8 differs, the first of block 2').toEqual([5, 2]);
    expect(found(manager, changed(7)), 'token 7 differs, the last of block 1').toEqual([5]);
    expect(found(manager, changed(0)), 'token 0 differs: what follows has another prefix').toEqual([]);
    expect(found(manager, range(9, 4)), "block 1's tokens, at the beginning of another prompt").toEqual([]);
  });

  test('one token is always left to compute', () => {
    const manager = new BlockManager(8, 4);
    compute(manager, range(12), [5, 2, 7]);
    expect(found(manager, range(8)), 'a prompt of exactly 2 known blocks').toEqual([5]);
    expect(found(manager, range(9)), 'a prompt of 2 known blocks and a token').toEqual([5, 2]);
    expect(found(manager, range(4)), 'a prompt of exactly 1 known block').toEqual([]);
    expect(found(manager, range(1)), 'a prompt of 1 token').toEqual([]);
  });

  test('only full blocks become findable, as far as they are computed', () => {
    const manager = new BlockManager(8, 4);
    const seq = compute(manager, range(12), [5, 2, 7], 3);
    expect(found(manager, range(20)), '3 of 4 tokens computed').toEqual([]);
    for (const [numComputed, blocks] of [
      [4, [5]],
      [7, [5]],
      [8, [5, 2]],
      [11, [5, 2]],
      [12, [5, 2, 7]],
    ] as const) {
      manager.cacheFullBlocks(seq, numComputed);
      expect(found(manager, range(20)), `${numComputed} tokens computed, in blocks of 4`).toEqual(blocks);
      manager.cacheFullBlocks(seq, numComputed);
      expect(found(manager, range(20)), 'the same step twice').toEqual(blocks);
    }
  });

  test('equal tokens after different prefixes are different blocks, and both are found', () => {
    const manager = new BlockManager(8, 4);
    const [x, y, same] = [range(4), range(4, 50), range(4, 90)];
    compute(manager, [...x, ...same], [0, 1]);
    compute(manager, [...y, ...same], [2, 3]);
    compute(manager, [...same, ...x], [4, 5]);
    expect(found(manager, [...x, ...same, 7]), 'x, same: the first sequence').toEqual([0, 1]);
    expect(found(manager, [...y, ...same, 7]), 'y, same: the second sequence').toEqual([2, 3]);
    expect(found(manager, [...same, ...x, 7]), 'same, x: the third sequence').toEqual([4, 5]);
    expect(found(manager, [...same, ...same, 7]), 'same, same: nobody computed the second').toEqual([4]);
  });

  test('a hash that collides never gives a wrong block: the tokens are compared', () => {
    const manager = new BlockManager(8, 4, true, () => 7);
    compute(manager, range(4), [3]);
    expect(found(manager, range(5)), 'the same tokens').toEqual([3]);
    expect(found(manager, range(5, 50)), 'other tokens with the same hash').toEqual([]);
    expect(found(manager, [0, 1, 2, 99, 5]), 'one other token, with the same hash').toEqual([]);
  });

  test('nor do prefixes that collide: they are compared too', () => {
    // The hash sees the tokens only, so that the same tokens collide after any prefix.
    const manager = new BlockManager(8, 4, true, (tokens) => tokens.reduce((sum, token) => 31 * sum + token, 0));
    const [x, y, same] = [range(4), range(4, 50), range(4, 90)];
    compute(manager, [...x, ...same], [0, 1]);
    compute(manager, y, [2]);
    expect(found(manager, [...y, ...same, 7]), 'y is known, but not what follows: that came after x').toEqual([2]);
    expect(found(manager, [...same, 7]), 'what came after x, without x').toEqual([]);
  });

  test('looking changes nothing', () => {
    const manager = new BlockManager(4, 4);
    compute(manager, range(12), [0, 1, 2]);
    for (let i = 0; i < 3; i++) expect(found(manager, range(13)), `look ${i + 1}`).toEqual([0, 1, 2]);
    expect(references(manager), 'refCount of each block').toEqual([0, 0, 0, 0]);
    expect(manager.numFreeBlocks, 'free blocks').toBe(4);
  });

  test('two sequences that computed the same side by side: what follows is found through either', () => {
    const manager = new BlockManager(8, 4);
    compute(manager, range(8), [0, 1]);
    const second = compute(manager, range(12), [2, 3, 6], 8);
    manager.cacheFullBlocks(second, 12);
    const ids = found(manager, range(13));
    expect(ids.length, 'known blocks of 12 tokens').toBe(3);
    expect([0, 2], 'block 0 of the prompt lies in').toContain(ids[0]);
    expect([1, 3], 'block 1 of the prompt lies in').toContain(ids[1]);
    expect(ids[2], 'block 2 of the prompt, which only the second computed').toBe(6);
  });

  test('any prompts: as many blocks as somebody computed, and what they hold is right', () => {
    const manager = new BlockManager(400, 2);
    const holds = new Map<number, string>(); // block → all tokens up to its end
    let unused = 0;
    const prompt = () => Array.from({ length: 1 + below(9) }, () => below(2));
    const prefixes = (tokens: readonly number[], most: number) =>
      range(Math.floor(most / 2)).map((i) => tokens.slice(0, 2 * i + 2).join());
    for (let i = 0; i < 60; i++) {
      const asked = prompt();
      const computed = new Set(holds.values());
      const misses = prefixes(asked, asked.length - 1).map((prefix) => !computed.has(prefix));
      const expected = prefixes(asked, asked.length - 1).slice(0, [...misses, true].indexOf(true));
      const got = found(manager, asked).map((id) => holds.get(id));
      expect(got, `prompt [${asked}] in blocks of 2: for each block found, all tokens up to its end ${again}`).toEqual(
        expected,
      );
      const tokens = prompt();
      const table = range(Math.ceil(tokens.length / 2), unused);
      unused += table.length;
      compute(manager, tokens, table);
      prefixes(tokens, tokens.length).forEach((prefix, b) => holds.set(table[b], prefix));
    }
  });

  test('with 3.1: a prompt is computed once, until its blocks are needed for something else', () => {
    const manager = new BlockManager(3, 4);
    const serve = (tokens: readonly number[]) => {
      const seq = sequenceOf(tokens);
      expect(manager.allocate(seq), `blocks for ${tokens.length} tokens`).toBe(true);
      const cached = seq.numCachedTokens;
      seq.numCachedTokens = seq.numTokens;
      manager.cacheFullBlocks(seq, seq.numTokens);
      manager.checkIntegrity([seq]);
      manager.deallocate(seq);
      return cached;
    };
    expect(serve(range(9)), 'cached tokens the first time').toBe(0);
    expect(serve(range(9)), 'cached tokens the second time').toBe(8);
    expect(serve([...range(4), 77, 78]), 'cached tokens of another prompt that begins alike').toBe(4);
    expect(serve(range(12, 500)), 'cached tokens of a prompt that needs the whole cache').toBe(0);
    expect(serve(range(9)), 'cached tokens of the first prompt, whose blocks were overwritten').toBe(0);
  });
});

/** A float32 or int32 tensor over these values; another dtype says how the cache rounds. */
function tensor(
  values: Float32Array | Int32Array | readonly number[],
  shape: readonly number[],
  { dtype = 'float32', strides = contiguousStrides(shape), offset = 0 }: Partial<Tensor> = {},
): Tensor {
  const array = Array.isArray(values) ? Float32Array.from(values) : (values as Float32Array | Int32Array);
  const storage: Storage = { alive: true, array };
  return new Tensor(storage, shape, array instanceof Int32Array ? 'int32' : dtype, strides, offset);
}
const int32 = (values: readonly number[], shape: readonly number[] = [values.length]) =>
  tensor(Int32Array.from(values), shape);

/** Attention of one query over `keys` and `values`, one row a key, in float64. */
function attend64(q: ArrayLike<number>, keys: ArrayLike<number>[], values: ArrayLike<number>[], scale: number) {
  const scores = keys.map((key) => scale * Array.from(key).reduce((sum, x, i) => sum + x * q[i], 0));
  const max = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const weights = scores.map((score) => Math.exp(score - max));
  const total = weights.reduce((a, b) => a + b, 0);
  return Array.from({ length: q.length }, (_, i) =>
    values.reduce((sum, value, j) => sum + (weights[j] / total) * value[i], 0),
  );
}

/** Fails with the first few numbers from where they part. */
function expectRow(actual: ArrayLike<number>, expected: readonly number[], what: string): void {
  const norm = Math.sqrt(expected.reduce((sum, x) => sum + x * x, 0));
  const wrong = expected.findIndex((x, i) => !(Math.abs(actual[i] - x) <= 1e-5 * norm + 1e-7));
  if (wrong < 0) return;
  const show = (row: ArrayLike<number>) =>
    Array.from(row)
      .slice(wrong, wrong + 4)
      .map((x) => Number(x.toPrecision(5)));
  const nan = Number.isNaN(actual[wrong]) ? ' (NaN: read where no key is, or not set, or 0/0 or ∞ - ∞ on the way)' : '';
  expect(show(actual), `${what}, from number ${wrong} on${nan}`).toEqual(show(expected));
  expect(actual[wrong], `${what}, number ${wrong}`).toBe(expected[wrong]); // they differ in a later digit
}

interface Batch {
  readonly lengths: readonly { readonly queries: number; readonly keys: number }[];
  readonly heads: number;
  readonly kvHeads: number;
  readonly dim: number;
  readonly scale?: number;
  readonly causal?: boolean;
  /** Row t of head h of the queries; likewise key and value rows of a sequence. Default: normal random numbers. */
  readonly q?: (b: number, t: number, head: number) => readonly number[];
  readonly k?: (b: number, j: number, head: number) => readonly number[];
  readonly v?: (b: number, j: number, head: number) => readonly number[];
}

/** The rows of a batch, and where each sequence begins. */
function drawBatch(batch: Batch) {
  const { lengths, heads, kvHeads, dim } = batch;
  const totals = (of: readonly number[]) => range(of.length + 1).map((i) => of.slice(0, i).reduce((x, y) => x + y, 0));
  const [cuQ, cuK] = [totals(lengths.map((l) => l.queries)), totals(lengths.map((l) => l.keys))];
  const rows = (which: 'queries' | 'keys', count: number, make: Batch['q']) =>
    lengths.map((l, b) =>
      range(l[which]).map((t) => range(count).map((h) => [...Float32Array.from(make?.(b, t, h) ?? normals(dim))])),
    );
  const [q, k, v] = [rows('queries', heads, batch.q), rows('keys', kvHeads, batch.k), rows('keys', kvHeads, batch.v)];
  return { q, k, v, cuQ, cuK };
}

/** Compares every row with float64 attention. */
function expectBatch(out: Float32Array, batch: Batch, rows: ReturnType<typeof drawBatch>, decode = false): void {
  const { lengths, heads, kvHeads, dim, scale = 1 / Math.sqrt(dim), causal = true } = batch;
  lengths.forEach(({ queries, keys }, b) => {
    for (let t = 0; t < queries; t++) {
      const visible = causal && !decode ? Math.max(0, keys - queries + t + 1) : keys;
      for (let h = 0; h < heads; h++) {
        const kvHead = Math.floor((h * kvHeads) / heads);
        const of = (all: number[][][][]) => all[b].slice(0, visible).map((row) => row[kvHead]);
        const expected = attend64(rows.q[b][t][h], of(rows.k), of(rows.v), scale);
        const at = ((rows.cuQ[b] + t) * heads + h) * dim;
        const what = `sequence ${b} of ${lengths.length} (${keys} keys), query ${t} of ${queries}, head ${h} of ${heads}`;
        expectRow(out.subarray(at, at + dim), expected, `${what} ${again}`);
      }
    }
  });
}

/** The baseline's scratch memory: dense keys and values, and room for all scores. NaN, so that nothing old passes for new. */
function workspaceFor({ lengths, heads, kvHeads, dim }: Batch, rows = 1) {
  const longest = Math.max(1, ...lengths.map((l) => l.keys));
  const queries = Math.max(1, ...lengths.map((l) => l.queries));
  const nan = (...shape: number[]) => tensor(new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(NaN), shape);
  return {
    k: nan(rows, longest, kvHeads, dim),
    v: nan(rows, longest, kvHeads, dim),
    scores: nan(rows, heads, queries, longest),
  };
}

type Flavour = 'sdpa.math' | 'flash';
const flavour = (attnBackend: Flavour, batch: Batch, rows = 1) => ({
  attnBackend,
  softmaxScale: batch.scale ?? 1 / Math.sqrt(batch.dim),
  workspace: attnBackend === 'flash' ? null : workspaceFor(batch, rows),
});

/** Prefill over contiguous keys. `out` begins as NaN. */
function prefill(batch: Batch, rows: ReturnType<typeof drawBatch>, attnBackend: Flavour = 'sdpa.math'): Float32Array {
  const { lengths, heads, kvHeads, dim } = batch;
  const [tokens, keys] = [rows.cuQ[lengths.length], rows.cuK[lengths.length]];
  const out = new Float32Array(tokens * heads * dim).fill(NaN);
  const flat = (all: number[][][][]) => all.flat(3);
  attnVarlen(
    tensor(out, [tokens, heads, dim]),
    tensor(flat(rows.q), [tokens, heads, dim]),
    tensor(flat(rows.k), [keys, kvHeads, dim]),
    tensor(flat(rows.v), [keys, kvHeads, dim]),
    {
      ...flavour(attnBackend, batch),
      cuSeqlensQ: int32(rows.cuQ),
      cuSeqlensK: int32(rows.cuK),
      maxSeqlenQ: Math.max(1, ...lengths.map((l) => l.queries)),
      maxSeqlenK: Math.max(1, ...lengths.map((l) => l.keys)),
      causal: batch.causal ?? true,
      blockTables: null,
    },
  );
  return out;
}

const unit = (dim: number, at: number) => range(dim).map((i) => (i === at ? 1 : 0));
/** With value j a unit vector, the output is the weights: the keys that a query looked at, in a batch of one head. */
const lookedAt = (out: Float32Array, dim: number, row: number) => {
  const weights = out.subarray(row * dim, (row + 1) * dim);
  if (weights.some(Number.isNaN)) return 'NaN: out as it was before, or 0/0 on the way';
  return range(dim).filter((i) => Math.abs(weights[i]) > 1e-6);
};

/** One query over keys given as rows, through `attend` itself. Beyond the last visible key lie NaN, and nobody may ask. */
function attendOne(
  attend: (visible: number) => Attend,
  keys: readonly (readonly number[])[],
  values: readonly (readonly number[])[],
  { q, scale = 1 }: { q: readonly number[]; scale?: number },
) {
  const dim = q.length;
  const asked: string[] = [];
  // Rows of keys are dim + 3 apart and begin at 2; of values dim + 1, beginning at 5: mixing the two up shows.
  const place = (rows: readonly (readonly number[])[], first: number, apart: number, name: string) => {
    const array = new Float32Array(first + apart * (rows.length + 40)).fill(NaN);
    rows.forEach((row, j) => array.set(row, first + apart * j));
    const at: KeyStart = (j, head) => {
      asked.push(`${name} ${j}`);
      if (head !== 1) expect.fail(`head ${head} was asked for where query.kvHead is 1`);
      if (!(j >= 0 && j < rows.length)) expect.fail(`${name} ${j} was asked for where ${rows.length} are visible`);
      return first + apart * j;
    };
    return [array, at] as const;
  };
  const [k, kAt] = place(keys, 2, dim + 3, 'key');
  const [v, vAt] = place(values, 5, dim + 1, 'value');
  const out = new Float32Array(dim + 7).fill(-99);
  out.fill(NaN, 4, 4 + dim);
  const query = {
    ...{ q: Float32Array.from([9, 9, 9, ...q, 9]), qStart: 3, out, outStart: 4, dim },
    ...{ kvHead: 1, visible: keys.length, scale },
  };
  attend(keys.length)(query, k, kAt, v, vAt);
  const beside = [...out.slice(0, 4), ...out.slice(4 + dim)];
  expect(beside, 'the numbers before and after the result, which belong to others').toEqual(beside.map(() => -99));
  return { out: out.slice(4, 4 + dim), asked };
}

/** What both algorithms must do; `attend` is one of them. */
function attendCases(attend: (visible: number) => Attend): void {
  test('by hand: weights 1/4, 1/2, 1/4', () => {
    const keys = [
      [0, 5],
      [Math.log(2), 5],
      [0, -5],
    ];
    const values = [
      [8, 1],
      [4, 0],
      [0, 1],
    ];
    const { out } = attendOne(attend, keys, values, { q: [1, 0] });
    expectRow(out, [4, 0.5], 'q = [1, 0], scores 0, ln 2 and 0, scale 1');
  });

  test('one key has all the weight, and no key gives zeros', () => {
    expectRow(attendOne(attend, [[3, 4]], [[7, -2]], { q: [1, 1] }).out, [7, -2], 'one key');
    expectRow(attendOne(attend, [], [], { q: [1, 1] }).out, [0, 0], 'no key at all');
  });

  test('the score is multiplied by the scale', () => {
    const [keys, values] = [
      [[0], [1]],
      [[0], [1]],
    ];
    for (const scale of [1, 0.5, 0.1, 3]) {
      const { out } = attendOne(attend, keys, values, { q: [2], scale });
      expectRow(out, [1 / (1 + Math.exp(-2 * scale))], `scores 0 and 2, scale ${scale}`);
    }
  });

  test('any number of keys', () => {
    for (const count of [2, 3, 7, 31, 32, 33, 63, 64, 65, 100, 257]) {
      const [q, scale] = [normals(16), 0.5];
      const rows = () => range(count).map(() => normals(16));
      const [keys, values] = [rows(), rows()];
      const { out } = attendOne(attend, keys, values, { q, scale });
      expectRow(out, attend64(q, keys, values, scale), `${count} keys ${again}`);
    }
  });

  test.each<[string, (j: number) => number]>([
    ['rise from key to key', (j) => j / 8],
    ['fall from key to key', (j) => -j / 8],
    ['are all the same', () => 3],
    ['are all far below zero', (j) => -1000 - (j % 5)],
    ['are all far above zero', (j) => 1000 + (j % 5)],
    ['hold one that towers over the rest', (j) => (j === 70 ? 5000 : j % 7)],
    ['hold one abyss', (j) => (j === 70 ? -5000 : j % 7)],
  ])('scores that %s', (_, score) => {
    const keys = range(100).map((j) => [score(j), 1]);
    const values = range(100).map((j) => [1 + j, Math.cos(j)]);
    const { out } = attendOne(attend, keys, values, { q: [1, 0] });
    expectRow(out, attend64([1, 0], keys, values, 1), '100 keys');
  });
}

describe('3.4 Attention, naive', () => {
  test('by hand: two heads, three tokens', () => {
    // Head 0's query looks for the first number of a key, head 1's for nothing: all scores 0.
    const batch: Batch = {
      ...{ lengths: [{ queries: 3, keys: 3 }], heads: 2, kvHeads: 1, dim: 2, scale: 1 },
      q: (_b, _t, head) => [head === 0 ? Math.log(2) : 0, 0],
      k: (_b, j) => [j, 9],
      v: (_b, j) => (j < 2 ? [7 * (j + 1), 0] : [0, 7]),
    };
    const out = prefill(batch, drawBatch(batch));
    expectRow(out.subarray(0, 4), [7, 0, 7, 0], 'token 0 sees only itself (head 0, then head 1)');
    expectRow(out.subarray(4, 6), [(7 + 28) / 3, 0], 'token 1, head 0: weights 1/3, 2/3');
    expectRow(out.subarray(8, 12), [5, 4, 7, 7 / 3], 'token 2: weights 1/7, 2/7, 4/7 and 1/3, 1/3, 1/3');
  });

  const shapes = [
    [3, 3],
    [3, 8],
    [1, 8],
    [8, 8],
    [5, 2],
    [3, 0],
  ];
  test.each(shapes)('causal: %i queries are the last tokens of %i keys', (queries, keys) => {
    const batch: Batch = {
      ...{ lengths: [{ queries, keys }], heads: 1, kvHeads: 1, dim: 8 },
      q: () => range(8).map(() => 0),
      v: (_b, j) => unit(8, j),
    };
    const out = prefill(batch, drawBatch(batch));
    for (let i = 0; i < queries; i++) {
      const what = `keys that query ${i} of ${queries} looks at, of ${keys}`;
      expect(lookedAt(out, 8, i), what).toEqual(range(Math.max(0, keys - queries + i + 1)));
    }
  });

  test('not causal: every query looks at every key', () => {
    const batch: Batch = {
      ...{ lengths: [{ queries: 3, keys: 5 }], heads: 1, kvHeads: 1, dim: 8, causal: false },
      q: () => range(8).map(() => 0),
      v: (_b, j) => unit(8, j),
    };
    const out = prefill(batch, drawBatch(batch));
    for (let i = 0; i < 3; i++) expect(lookedAt(out, 8, i), `keys that query ${i} of 3 looks at`).toEqual(range(5));
  });

  test.each([
    [4, 2],
    [6, 2],
    [8, 1],
    [4, 4],
    [6, 3],
  ])('%i query heads over %i key heads: neighbours share', (heads, kvHeads) => {
    const batch: Batch = {
      ...{ lengths: [{ queries: 1, keys: 3 }], heads, kvHeads, dim: 2 },
      v: (_b, _j, head) => [head, head],
    };
    const out = prefill(batch, drawBatch(batch));
    const read = range(heads).map((h) => Math.round(out[2 * h]));
    const expected = range(heads).map((h) => Math.floor((h * kvHeads) / heads));
    expect(read, `the key head that query heads 0 to ${heads - 1} read`).toEqual(expected);
  });

  test('sequences without keys or queries, between others', () => {
    const lengths = [
      { queries: 2, keys: 2 },
      { queries: 0, keys: 0 },
      { queries: 1, keys: 0 },
      { queries: 0, keys: 4 },
      { queries: 3, keys: 3 },
    ];
    const batch: Batch = { lengths, heads: 2, kvHeads: 1, dim: 4 };
    const rows = drawBatch(batch);
    expectBatch(prefill(batch, rows), batch, rows);
  });

  test('a ragged batch of any numbers', () => {
    for (const [heads, kvHeads, dim, scale] of [
      [4, 2, 16, 0.25],
      [2, 2, 10, 0.7],
    ]) {
      const lengths = range(5).map(() => {
        const keys = below(60);
        return { keys, queries: Math.min(keys, below(20)) };
      });
      const batch: Batch = { lengths, heads, kvHeads, dim, scale };
      const rows = drawBatch(batch);
      expectBatch(prefill(batch, rows), batch, rows);
    }
  });

  attendCases((visible) => sdpaMath(new Float32Array(Math.max(1, visible)).fill(NaN)));
});

describe('3.5 Online softmax (flash)', () => {
  attendCases(() => flash);

  test('one pass: values are used long before the last score is known', () => {
    const keys = range(2000).map((j) => [Math.sin(j)]);
    const { asked } = attendOne(() => flash, keys, keys, { q: [1] });
    const what =
      'keys read before the first value is used, of 2000 (with all scores first, memory grows with the context)';
    expect(asked.indexOf('value 0'), what).toBeLessThan(1000);
    expect(asked.filter((name) => name === 'key 0').length, 'times that key 0 is read').toBe(1);
  });
});

describe('3.6 The paged cache', () => {
  /** A cache `[blocks, blockSize, heads, dim]` of -1, within a larger array of -2. */
  function cacheOf(blocks: number, blockSize: number, heads: number, dim: number, dtype?: Tensor['dtype']) {
    const size = blocks * blockSize * heads * dim;
    const array = new Float32Array(size + 32).fill(-2);
    array.fill(-1, 16, 16 + size);
    const cache = tensor(array, [blocks, blockSize, heads, dim], { offset: 16, dtype });
    const slot = (index: number) => [...array.slice(16 + index * heads * dim, 16 + (index + 1) * heads * dim)];
    const others = (used: readonly number[]) =>
      range(blocks * blockSize).filter((s) => !used.includes(s) && slot(s).some((x) => x !== -1));
    const beside = () => [...array.slice(0, 16), ...array.slice(16 + size)].filter((x) => x !== -2).length;
    return { cache, slot, others, beside };
  }
  /** Token t's heads: 100·(t + 1), 100·(t + 1) + 1, … */
  const tokens = (count: number, width: number, sign = 1) =>
    range(count).flatMap((t) => range(width).map((i) => sign * (100 * (t + 1) + i)));

  test('storeKvCache: each token goes to its slot, key and value', () => {
    const [k, v] = [cacheOf(3, 4, 2, 4), cacheOf(3, 4, 2, 4)];
    const slots = [6, 7, 0, 11];
    storeKvCache(tensor(tokens(4, 8), [4, 2, 4]), tensor(tokens(4, 8, -1), [4, 2, 4]), k.cache, v.cache, int32(slots));
    slots.forEach((slot, t) => {
      expect(k.slot(slot), `the key of token ${t}, in slot ${slot}`).toEqual(range(8, 100 * (t + 1)));
      const value = range(8, 100 * (t + 1)).map((x) => -x);
      expect(v.slot(slot), `the value of token ${t}, in slot ${slot}`).toEqual(value);
    });
    expect(k.others(slots), 'other slots that were written').toEqual([]);
    expect(k.beside() + v.beside(), 'numbers written beside the cache').toBe(0);
  });

  test('storeKvCache: slot -1 skips the token', () => {
    const [k, v] = [cacheOf(2, 2, 1, 4), cacheOf(2, 2, 1, 4)];
    const rows = tensor(tokens(3, 4), [3, 1, 4]);
    storeKvCache(rows, rows, k.cache, v.cache, int32([-1, 2, -1]));
    expect(k.slot(2), 'the key of token 1, in slot 2').toEqual(range(4, 200));
    expect(k.others([2]), 'other slots that were written').toEqual([]);
    expect(k.beside() + v.beside(), 'numbers written beside the cache').toBe(0);
  });

  test('storeKvCache: heads cut from a wider projection are read where they are', () => {
    // Rows of 20 numbers: k is columns 6 to 13, v columns 12 to 19.
    const projection = Float32Array.from(tokens(3, 20));
    const cut = (column: number) => tensor(projection, [3, 2, 4], { strides: [20, 4, 1], offset: column });
    const [k, v] = [cacheOf(2, 2, 2, 4), cacheOf(2, 2, 2, 4)];
    storeKvCache(cut(6), cut(12), k.cache, v.cache, int32([3, 0, 2]));
    expect(k.slot(3), 'the key of token 0').toEqual(range(8, 106));
    expect(k.slot(2), 'the key of token 2').toEqual(range(8, 306));
    expect(v.slot(0), 'the value of token 1').toEqual(range(8, 212));
  });

  test('storeKvCache: numbers are rounded as the cache rounds them', () => {
    const [k, v] = [cacheOf(1, 2, 1, 4, 'bfloat16'), cacheOf(1, 2, 1, 4, 'bfloat16')];
    const rows = [Math.PI, -0.1, 1 / 3, 1234.5];
    storeKvCache(tensor(rows, [1, 1, 4]), tensor(rows, [1, 1, 4]), k.cache, v.cache, int32([1]));
    const rounded = rows.map((x) => bfloat16FromBits(bfloat16Bits(Math.fround(x))));
    expect(k.slot(1), `[${rows.map((x) => x.toFixed(4))}] in a bfloat16 cache`).toEqual(rounded);
  });

  test('storeKvCache: the first and the last slot exist, and no others', () => {
    const { cache, slot } = cacheOf(3, 4, 1, 2);
    const row = tensor(tokens(1, 2), [1, 1, 2]);
    for (const last of [0, 11]) {
      storeKvCache(row, row, cache, cache, int32([last]));
      expect(slot(last), `slot ${last} of 12`).toEqual([100, 101]);
    }
    for (const bad of [12, 100, -2]) {
      const error = thrownBy(() => storeKvCache(row, row, cache, cache, int32([bad])), `slot ${bad} of 12`);
      expect(error, `the error for slot ${bad} of 12`).toBeInstanceOf(InvalidTensorError);
      expect(error.message, `the message for slot ${bad} of 12`).toContain(String(bad));
    }
  });

  /** Keys and values of a batch in blocks of a shuffled cache; every slot that holds none is NaN. */
  function page(batch: Batch, rows: ReturnType<typeof drawBatch>, blockSize: number) {
    const { lengths, kvHeads, dim } = batch;
    const needed = lengths.map((l) => Math.ceil(l.keys / blockSize));
    const blocks = needed.reduce((a, b) => a + b, 2);
    const ids = range(blocks)
      .map((id) => ({ id, key: uniform() }))
      .sort((x, y) => x.key - y.key)
      .map(({ id }) => id);
    const tables = needed.map((count) => ids.splice(0, count));
    const place = (all: number[][][][]) => {
      const array = new Float32Array(blocks * blockSize * kvHeads * dim).fill(NaN);
      all.forEach((sequence, b) => {
        sequence.forEach((heads, j) => {
          const slot = tables[b][Math.floor(j / blockSize)] * blockSize + (j % blockSize);
          array.set(heads.flat(), slot * kvHeads * dim);
        });
      });
      return tensor(array, [blocks, blockSize, kvHeads, dim]);
    };
    const width = Math.max(1, ...needed);
    const padded = tables.flatMap((table) => [...table, ...new Array<number>(width - table.length).fill(-1)]);
    return { k: place(rows.k), v: place(rows.v), blockTables: int32(padded, [lengths.length, width]) };
  }

  /** Decode: one query a sequence. `out` begins as NaN. */
  function decode(batch: Batch, rows: ReturnType<typeof drawBatch>, blockSize: number, attnBackend: Flavour = 'flash') {
    const { lengths, heads, dim } = batch;
    const count = lengths.length;
    const out = new Float32Array(count * heads * dim).fill(NaN);
    const { k, v, blockTables } = page(batch, rows, blockSize);
    const contextLens = lengths.map((l) => l.keys);
    attnWithKvCache(tensor(out, [count, heads, dim]), tensor(rows.q.flat(3), [count, heads, dim]), k, v, {
      ...flavour(attnBackend, batch, count),
      contextLens: int32(contextLens),
      maxContextLen: Math.max(1, ...contextLens),
      blockTables,
    });
    return out;
  }
  const contexts = (...lengths: number[]) => lengths.map((keys) => ({ queries: 1, keys }));

  test('decode: a query looks at all keys of its sequence, its own token among them, and at no others', () => {
    const batch: Batch = {
      ...{ lengths: contexts(1, 3, 4, 5, 8), heads: 1, kvHeads: 1, dim: 8 },
      q: () => range(8).map(() => 0),
      v: (_b, j) => unit(8, j),
    };
    const out = decode(batch, drawBatch(batch), 4);
    batch.lengths.forEach(({ keys }, b) => {
      expect(lookedAt(out, 8, b), `keys that the query looks at, of ${keys} in blocks of 4`).toEqual(range(keys));
    });
  });

  test.each([1, 2, 3, 4, 16])('decode: any lengths, in blocks of %i that lie anywhere', (blockSize) => {
    for (const attnBackend of ['flash', 'sdpa.math'] as const) {
      const batch: Batch = { lengths: contexts(1, 15, 16, 0, 17, 33, 64), heads: 4, kvHeads: 2, dim: 8 };
      const rows = drawBatch(batch);
      expectBatch(decode(batch, rows, blockSize, attnBackend), batch, rows, true);
    }
  });

  test('decode: a batch of empty sequences gives zeros', () => {
    const batch: Batch = { lengths: contexts(0, 0), heads: 2, kvHeads: 1, dim: 4 };
    expect([...decode(batch, drawBatch(batch), 4)], 'all of the output').toEqual(new Array(16).fill(0));
  });

  test('decode: two sequences share a block', () => {
    // Blocks of 2, values 10·slot. Sequence 0: slots 4, 5, 0; sequence 1: slots 4, 5, 2, 3. All scores are 0.
    const v = tensor([0, 10, 20, 30, 40, 50], [3, 2, 1, 1]);
    const out = new Float32Array(2).fill(NaN);
    attnWithKvCache(tensor(out, [2, 1, 1]), tensor([0, 0], [2, 1, 1]), tensor([1, 2, 3, 4, 5, 6], [3, 2, 1, 1]), v, {
      ...{ softmaxScale: 1, attnBackend: 'flash', workspace: null },
      ...{ contextLens: int32([3, 4]), maxContextLen: 4, blockTables: int32([2, 0, 2, 1], [2, 2]) },
    });
    expectRow(out, [(40 + 50 + 0) / 3, (40 + 50 + 20 + 30) / 4], 'the means of the values (all scores are 0)');
  });

  test('prefill over the cache: new tokens after a cached prefix', () => {
    const lengths = [
      { queries: 3, keys: 9 },
      { queries: 5, keys: 5 },
      { queries: 1, keys: 40 },
    ];
    const batch: Batch = { lengths, heads: 4, kvHeads: 2, dim: 8 };
    const rows = drawBatch(batch);
    const { k, v, blockTables } = page(batch, rows, 4);
    const out = new Float32Array(9 * 4 * 8).fill(NaN);
    attnVarlen(tensor(out, [9, 4, 8]), tensor(rows.q.flat(3), [9, 4, 8]), k, v, {
      ...flavour('flash', batch),
      ...{ cuSeqlensQ: int32(rows.cuQ), cuSeqlensK: int32(rows.cuK), maxSeqlenQ: 5, maxSeqlenK: 40 },
      ...{ causal: true, blockTables },
    });
    expectBatch(out, batch, rows);
  });

  test('a block that the cache does not have is refused', () => {
    const cache = tensor(new Float32Array(3 * 2), [3, 2, 1, 1]);
    for (const bad of [3, -1, 99]) {
      const read = () =>
        attnWithKvCache(tensor([NaN], [1, 1, 1]), tensor([0], [1, 1, 1]), cache, cache, {
          ...{ softmaxScale: 1, attnBackend: 'flash', workspace: null },
          ...{ contextLens: int32([3]), maxContextLen: 3, blockTables: int32([0, bad], [1, 2]) },
        });
      const error = thrownBy(read, `3 keys, with a block table of 0 and ${bad}`);
      expect(error, `the error for block ${bad} of 3`).toBeInstanceOf(InvalidTensorError);
    }
  });

  test('what was stored is what is read', () => {
    const [blocks, blockSize, table] = [4, 4, [2, 0, 3]];
    const [k, v] = [cacheOf(blocks, blockSize, 1, 4), cacheOf(blocks, blockSize, 1, 4)];
    const rows = range(10).map(() => normals(4));
    const slots = range(10).map((i) => table[Math.floor(i / 4)] * 4 + (i % 4));
    storeKvCache(tensor(rows.flat(), [10, 1, 4]), tensor(rows.flat(), [10, 1, 4]), k.cache, v.cache, int32(slots));
    const out = new Float32Array(4).fill(NaN);
    attnWithKvCache(tensor(out, [1, 1, 4]), tensor(rows[9], [1, 1, 4]), k.cache, v.cache, {
      ...{ softmaxScale: 0.5, attnBackend: 'flash', workspace: null },
      ...{ contextLens: int32([10]), maxContextLen: 10, blockTables: int32(table, [1, 3]) },
    });
    expectRow(out, attend64(rows[9], rows, rows, 0.5), `10 tokens in blocks [2, 0, 3] ${again}`);
  });
});
