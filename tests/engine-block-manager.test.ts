// The block manager: what is shared and what is kept apart, the order of reuse, its own checks.
import { describe, expect, test } from 'vitest';
import { type Block, BlockManager } from '#nano/engine/block-manager';
import { Sequence } from '#nano/engine/sequence';
import { SamplingParams } from '#nano/sampling-params';
import type { TokenHash } from '#nano/utils/hash';

const sequence = (tokens: readonly number[]) => new Sequence(tokens, new SamplingParams(), 4);
const range = (n: number, first = 0) => Array.from({ length: n }, (_, i) => first + i);

/** A sequence of these tokens with blocks, all computed. */
function computed(manager: BlockManager, tokens: readonly number[]): Sequence {
  const seq = sequence(tokens);
  expect(manager.allocate(seq)).toBe(true);
  manager.cacheFullBlocks(seq, seq.numTokens);
  return seq;
}

/** How many tokens of a prompt the cache would give; takes nothing. */
function cachedTokens(manager: BlockManager, tokens: readonly number[]): number {
  const seq = sequence(tokens);
  manager.allocate(seq);
  const { numCachedTokens } = seq;
  manager.deallocate(seq);
  return numCachedTokens;
}

describe('blocks', () => {
  const compute = (manager: BlockManager, seq: Sequence) => manager.cacheFullBlocks(seq, seq.numTokens);

  test('a common prefix is shared block by block, while in use and after', () => {
    const manager = new BlockManager(8, 4);
    const [a, b] = [sequence(range(11)), sequence([...range(8), 90, 91])];
    manager.allocate(a);
    compute(manager, a);
    manager.allocate(b);
    expect(b.blockTable.slice(0, 2)).toEqual(a.blockTable.slice(0, 2));
    expect([b.numCachedTokens, manager.numFreeBlocks]).toEqual([8, 4]);
    manager.deallocate(a);
    manager.deallocate(b);
    expect(manager.numFreeBlocks).toBe(8);
    const c = sequence(range(9));
    manager.allocate(c);
    expect(c.numCachedTokens).toBe(8);
  });

  test('a fully cached prompt leaves one block to compute: its last token must give logits', () => {
    const manager = new BlockManager(8, 4);
    const [a, b] = [sequence(range(8)), sequence(range(8))];
    manager.allocate(a);
    compute(manager, a);
    manager.allocate(b);
    expect(b.numCachedTokens).toBe(4);
    expect(b.blockTable[1]).not.toBe(a.blockTable[1]);
  });

  test('blocks that are allocated but not computed are not shared', () => {
    const manager = new BlockManager(8, 4);
    const [a, b] = [sequence(range(9)), sequence(range(9))];
    manager.allocate(a);
    manager.allocate(b);
    expect(b.numCachedTokens).toBe(0);
  });

  test('a refused allocation changes nothing', () => {
    const manager = new BlockManager(3, 4);
    const a = sequence(range(8));
    manager.allocate(a);
    compute(manager, a);
    const b = sequence([...range(8), ...range(8, 50)]); // shares two blocks, needs two more of one
    expect(manager.allocate(b)).toBe(false);
    expect([b.blockTable, manager.numFreeBlocks]).toEqual([[], 1]);
    manager.checkIntegrity([a, b]);
  });

  test('the block freed longest ago is reused first', () => {
    const manager = new BlockManager(4, 4);
    const [a, b] = [sequence(range(5)), sequence(range(5, 50))];
    for (const seq of [a, b]) {
      manager.allocate(seq);
      compute(manager, seq);
      manager.deallocate(seq);
    }
    const c = sequence(range(5, 100)); // takes two of four: a's
    manager.allocate(c);
    manager.deallocate(c);
    const again = sequence(range(5, 50));
    manager.allocate(again);
    expect(again.numCachedTokens).toBe(4);
  });

  test('checkIntegrity notices a lost reference', () => {
    const manager = new BlockManager(4, 4);
    const a = sequence(range(5));
    manager.allocate(a);
    expect(() => manager.checkIntegrity([])).toThrow(/counts 1 references; block tables hold 0/);
  });
});

describe('prefix caching', () => {
  test('a block is found only behind the same prefix', () => {
    const manager = new BlockManager(16, 4);
    computed(manager, [...range(4), ...range(4, 50), 1]);
    expect(cachedTokens(manager, [...range(4, 50), 1])).toBe(0);
    expect(cachedTokens(manager, [...range(4, 20), ...range(4, 50), 1])).toBe(0);
    expect(cachedTokens(manager, [...range(4), ...range(4, 50), 1])).toBe(8);
  });

  test('a repeated block is another block at another place', () => {
    const manager = new BlockManager(16, 4);
    computed(manager, [...range(4), ...range(4), ...range(4), 1]);
    expect(cachedTokens(manager, [...range(4), ...range(4), 1])).toBe(8);
    expect(cachedTokens(manager, [...range(4, 50), ...range(4), 1])).toBe(0);
  });

  test('a block that differs in its last token alone is not found', () => {
    const everything: TokenHash = () => 7;
    const manager = new BlockManager(16, 4, true, everything);
    computed(manager, [1, 2, 3, 4, 5]);
    expect(cachedTokens(manager, [1, 2, 3, 9, 5])).toBe(0);
    expect(cachedTokens(manager, [1, 2, 3, 4, 5])).toBe(4);
  });

  test('the same tokens behind another prefix are not found, whatever the hash says', () => {
    const manager = new BlockManager(16, 4, true, () => 7);
    computed(manager, [...range(4), ...range(4, 50), 1]); // of these blocks the second is the one under the hash
    expect(cachedTokens(manager, [...range(4, 50), 1])).toBe(0);
  });

  test('only computed tokens count: a block that is not full yet is not found', () => {
    const manager = new BlockManager(16, 4);
    const seq = sequence(range(9));
    manager.allocate(seq);
    manager.cacheFullBlocks(seq, 7);
    expect(cachedTokens(manager, range(9))).toBe(4);
    manager.cacheFullBlocks(seq, 8);
    expect(cachedTokens(manager, range(9))).toBe(8);
  });

  test('a block computed twice side by side keeps what comes after it findable through either', () => {
    const manager = new BlockManager(16, 4);
    const [a, b] = [sequence(range(9)), sequence(range(13))];
    for (const seq of [a, b]) manager.allocate(seq);
    for (const seq of [a, b]) manager.cacheFullBlocks(seq, seq.numTokens);
    const c = sequence(range(13));
    manager.allocate(c);
    expect(c.blockTable.slice(0, 3)).toEqual([...a.blockTable.slice(0, 2), b.blockTable[2]]);
    expect(c.numCachedTokens).toBe(12);
  });

  test('reusing a twin leaves the block that is found alone', () => {
    const manager = new BlockManager(4, 4);
    const [a, b] = [sequence(range(5)), sequence(range(5))];
    for (const seq of [a, b]) manager.allocate(seq);
    for (const seq of [a, b]) manager.cacheFullBlocks(seq, seq.numTokens);
    manager.deallocate(b);
    const other = sequence(range(8, 50)); // takes both blocks of b
    manager.allocate(other);
    manager.checkIntegrity([a, other]);
    manager.deallocate(other);
    expect(cachedTokens(manager, range(5))).toBe(4);
  });

  test('a block that is reused is not found any more', () => {
    const manager = new BlockManager(2, 4);
    manager.deallocate(computed(manager, range(5)));
    const other = sequence(range(8, 50));
    manager.allocate(other);
    manager.checkIntegrity([other]);
    expect(manager.blocks.map(({ content }) => content)).toEqual([null, null]);
    manager.deallocate(other);
    expect(cachedTokens(manager, range(5))).toBe(0);
  });

  test('each full block is remembered once, with the block before it as its prefix', () => {
    let hashed = 0;
    const counting: TokenHash = (tokens, prefix) => {
      hashed++;
      return tokens[0] * 1000 + (prefix ?? 0);
    };
    const manager = new BlockManager(16, 4, true, counting);
    const seq = sequence(range(12));
    manager.allocate(seq);
    manager.cacheFullBlocks(seq, 4);
    const [first] = seq.blockTable.map((id) => manager.blocks[id].content);
    hashed = 0;
    manager.cacheFullBlocks(seq, 12);
    const [same, second, third] = seq.blockTable.map((id) => manager.blocks[id].content);
    expect(hashed).toBe(4); // looked up and noted: the second and the third block, not the first again
    expect(same).toBe(first);
    expect([first?.prefix, second?.prefix, third?.prefix]).toEqual([null, first, second]);
  });

  test('switched off, nothing is remembered and nothing shared', () => {
    const manager = new BlockManager(8, 4, false);
    const a = computed(manager, range(9));
    expect(manager.blocks.every(({ content }) => content === null)).toBe(true);
    const b = sequence(range(9));
    manager.allocate(b);
    expect(b.numCachedTokens).toBe(0);
    expect(b.blockTable.filter((id) => a.blockTable.includes(id))).toEqual([]);
  });
});

describe('free blocks', () => {
  test('known blocks that are free themselves are taken from the free ones too', () => {
    const manager = new BlockManager(3, 4);
    manager.deallocate(computed(manager, range(9)));
    const tooLong = sequence([...range(8), ...range(8, 50)]); // two known blocks and two others, of three
    expect(manager.allocate(tooLong)).toBe(false);
    expect([tooLong.blockTable, manager.numFreeBlocks]).toEqual([[], 3]);
    const fits = sequence([...range(8), 90]);
    expect(manager.allocate(fits)).toBe(true);
    expect([fits.numCachedTokens, manager.numFreeBlocks]).toEqual([8, 0]);
    manager.checkIntegrity([fits]);
  });

  test('known blocks that are in use need no free ones', () => {
    const manager = new BlockManager(4, 4);
    const a = computed(manager, range(9));
    const b = sequence([...range(8), 90]);
    expect(manager.allocate(b)).toBe(true);
    expect([b.numCachedTokens, manager.numFreeBlocks]).toEqual([8, 0]);
    manager.checkIntegrity([a, b]);
  });

  test('the blocks a sequence gives back are reused from its last to its first', () => {
    const manager = new BlockManager(3, 4);
    const a = sequence(range(12));
    manager.allocate(a);
    const table = [...a.blockTable];
    manager.deallocate(a);
    expect([a.blockTable, a.numCachedTokens]).toEqual([[], 0]);
    const b = sequence(range(12, 50));
    manager.allocate(b);
    expect(b.blockTable).toEqual(table.reverse());
  });

  test('a shared block is free only when the last that holds it has left', () => {
    const manager = new BlockManager(8, 4);
    const a = computed(manager, range(5));
    const b = computed(manager, range(5));
    expect(manager.blocks[a.blockTable[0]].refCount).toBe(2);
    manager.deallocate(a);
    expect(manager.numFreeBlocks).toBe(6); // b's two are in use
    manager.deallocate(b);
    expect(manager.numFreeBlocks).toBe(8);
  });

  test('a slot for the next token takes a block only at the beginning of one, and none when none is free', () => {
    const manager = new BlockManager(2, 4);
    const seq = sequence(range(3));
    manager.allocate(seq);
    const grow = () => {
      seq.appendToken(9);
      return [manager.appendSlot(seq), seq.blockTable.length, manager.numFreeBlocks];
    };
    expect(grow()).toEqual([true, 1, 1]);
    expect(grow()).toEqual([true, 2, 0]);
    for (let i = 0; i < 3; i++) expect(grow()).toEqual([true, 2, 0]);
    expect(grow()).toEqual([false, 2, 0]);
    manager.checkIntegrity([seq]);
  });
});

describe('checkIntegrity notices', () => {
  const setup = () => {
    const manager = new BlockManager(4, 4);
    const seq = computed(manager, range(5));
    manager.checkIntegrity([seq]);
    const [first] = seq.blockTable.map((id) => manager.blocks[id] as { -readonly [K in keyof Block]: Block[K] });
    return { manager, seq, first };
  };

  test('a block in use that is on the free list', () => {
    const { manager, seq } = setup();
    const free = manager.blocks.find(({ refCount }) => refCount === 0) as Block;
    free.refCount = 1;
    seq.blockTable.push(free.id);
    expect(() => manager.checkIntegrity([seq])).toThrow(
      `Block ${free.id} with 1 references is on the wrong side of the free list.`,
    );
  });

  test('a block that nobody uses and that is not free', () => {
    const { manager, first } = setup();
    for (const block of manager.blocks) block.refCount = 0;
    expect(() => manager.checkIntegrity([])).toThrow(
      `Block ${first.id} with 0 references is on the wrong side of the free list.`,
    );
  });

  test.each<[string, (content: NonNullable<Block['content']>) => Block['content']]>([
    ['nothing', () => null],
    ['other tokens', (content) => ({ ...content, tokenIds: [9, 9, 9, 9] })],
    ['another hash', (content) => ({ ...content, hash: content.hash + 1 })],
    ['another prefix', (content) => ({ ...content, prefix: content })],
  ])('a block that is found by its hash and holds %s', (_, change) => {
    const { manager, seq, first } = setup();
    const { content } = first;
    if (!content) throw new Error('the block has no content');
    first.content = change(content);
    expect(() => manager.checkIntegrity([seq])).toThrow(
      `Block ${first.id} is found under hash ${content.hash}, which is not that of its tokens and its prefix.`,
    );
  });

  test('a block that is found by a token nobody knows yet', () => {
    const manager = new BlockManager(4, 4);
    const seq = sequence(range(3));
    seq.appendPlaceholder();
    manager.allocate(seq);
    manager.cacheFullBlocks(seq, 4);
    expect(() => manager.checkIntegrity([seq])).toThrow(`Block ${seq.blockTable[0]} is found by an unknown token.`);
  });
});
