// Exercise made from src/engine/block-manager.ts by `npm run days`, which keeps what you write. [6c4488e562915e4d]
import { PLACEHOLDER, type Sequence } from '#nano/engine/sequence';
import { hashTokens, type TokenHash } from '#nano/utils/hash';
import { TodoError } from '#nano/utils/todo';

/** One fixed-size piece of the KV cache: room for blockSize tokens of every layer. */
export interface Block {
  readonly id: number;
  /** Block tables that hold this block. 0: it is free, though its contents may still be known. */
  refCount: number;
  /** What the block holds, once all its tokens are computed and while it can be found by its hash. */
  content: Content | null;
}

/** The contents of a full block, and what comes before it: a key depends on every token to its left. */
interface Content {
  /** Hash of the tokens chained to the hash of the block before: equal prefixes have equal hashes. */
  readonly hash: number;
  readonly tokenIds: readonly number[];
  /** The contents of the block before, null for a first block. Compared by identity. */
  readonly prefix: Content | null;
}

/**
 * Divides the KV cache into blocks and lends them to sequences (PagedAttention, Kwon et al. 2023,
 * §4.2), as an operating system lends pages: any free block will do, so nothing is lost to fragmentation
 * but the tail of each sequence's last block. Full blocks stay known by what they hold, and a new prompt that
 * begins alike takes them over instead of computing them again (prefix caching).
 *
 * Only full blocks are ever shared, and a full block is never written again: no copy-on-write is needed.
 */
export class BlockManager {
  /** Every block there is, by id. To look at: only the block manager changes them. */
  readonly blocks: readonly Block[];
  /**
   * Free blocks, the longest-free first. Taking from the front makes the cache least-recently-used;
   * a Set keeps insertion order and removes from the middle in constant time.
   */
  private readonly free = new Set<Block>();
  private readonly byHash = new Map<number, Block>();

  constructor(
    readonly numBlocks: number,
    readonly blockSize: number,
    private readonly enablePrefixCaching = true,
    private readonly hash: TokenHash = hashTokens,
  ) {
    this.blocks = Array.from({ length: numBlocks }, (_, id) => ({ id, refCount: 0, content: null }));
    for (const block of this.blocks) this.free.add(block);
  }

  get numFreeBlocks(): number {
    return this.free.size;
  }

  /**
   * Gives a sequence blocks for all its tokens: those that {@link findPrefix} knows for its beginning, which it shares, and
   * free ones for the rest. Counts the tokens of the known blocks as cached (`numCachedTokens`).
   * @returns false, with nothing changed, when there are not enough free blocks.
   */
  allocate(seq: Sequence): boolean {
    // TODO 3.1 (about 7 lines)
    // Count before you take, so that a refusal changes nothing. Known blocks need no free one, unless they
    // are free themselves (refCount 0): then they leave the free list too.
    // Share the known blocks before you take free ones, or you may be given one of them.
    throw new TodoError('3.1', 'days/day3/block-manager.ts');
  }

  /**
   * Makes sure the last token has a slot: takes one more block when it is the first of one, and none when its block is
   * there already.
   * @returns false, with nothing changed, when a block is needed and none is free.
   */
  appendSlot(seq: Sequence): boolean {
    // TODO 3.2 (about 4 lines)
    // Compare the blocks its tokens need (`seq.numBlocks`) with the blocks it has.
    throw new TodoError('3.2', 'days/day3/block-manager.ts');
  }

  /**
   * Gives all blocks of a sequence back: each loses one reference, and is free when that was the last. What they hold stays
   * findable until they are reused. Those freed here are reused from the sequence's last block to its first.
   */
  deallocate(seq: Sequence): void {
    // TODO 3.1 (about 6 lines)
    // Walk the table from its end: the last block then joins the free list first and is reused first. Without
    // the blocks before it nobody could find it anyway.
    // Afterwards the sequence has an empty table, and nothing cached.
    throw new TodoError('3.1', 'days/day3/block-manager.ts');
  }

  /**
   * Makes findable what the sequence's first `numComputed` tokens fill: full blocks only, each with all that is before it as
   * its prefix. Blocks that are findable already stay as they are. Called after each step.
   */
  cacheFullBlocks(seq: Sequence, numComputed: number): void {
    if (!this.enablePrefixCaching) return;
    // TODO 3.3 (about 6 lines)
    // From block 0 on: a block's content is the prefix of the next. `remember` what has no content yet.
    // (After each decode step at most the last full block is new, so the solution searches from the end.)
    throw new TodoError('3.3', 'days/day3/block-manager.ts');
  }

  /**
   * Known blocks that hold the sequence's first tokens, as many as there are without a gap; but one token at least must be
   * left to compute. Changes nothing.
   */
  private findPrefix(seq: Sequence): Block[] {
    const found: Block[] = [];
    if (!this.enablePrefixCaching) return found;
    // TODO 3.3 (about 9 lines)
    // Look block after block up, each with the content of the one before as its prefix; stop at the first that
    // is not known. How many blocks can 8 tokens in blocks of 4 take over, if the last token must be left?
    throw new TodoError('3.3', 'days/day3/block-manager.ts');
  }

  /**
   * The findable block that holds these tokens after this prefix. A hash only says where to look. The tokens are compared,
   * and so is the prefix: two different prefixes whose hashes collide could be followed by the same tokens, whose keys
   * and values would still differ.
   */
  private lookUp(tokenIds: readonly number[], prefix: Content | null): Block | undefined {
    // TODO 3.3 (about 4 lines)
    // `byHash` under `hash(tokenIds, the prefix's hash or null)`. Then see whether it really is what you want:
    // the same prefix object, and the same tokens.
    throw new TodoError('3.3', 'days/day3/block-manager.ts');
  }

  /** Notes what a full block holds, and makes it findable. @returns its content, the prefix of the block after it. */
  private remember(block: Block, tokenIds: readonly number[], prefix: Content | null): Content {
    const known = this.lookUp(tokenIds, prefix);
    if (known?.content) {
      // Two sequences computed the same block side by side. The same content object keeps the
      // blocks after it findable through either; the one found first stays the one that is shared.
      block.content = known.content;
      return known.content;
    }
    // TODO 3.3 (about 4 lines)
    // The hash is chained: it is made from these tokens *and* the hash of the prefix.
    throw new TodoError('3.3', 'days/day3/block-manager.ts');
  }

  /** One more block table holds this block, which may have been free. */
  private share(block: Block): void {
    // TODO 3.1 (about 1 line)
    // A block is on the free list exactly while its refCount is 0.
    throw new TodoError('3.1', 'days/day3/block-manager.ts');
  }

  /**
   * The block that has been free the longest, with one reference. What it held is forgotten: it will be overwritten.
   * @throws Error when no block is free.
   */
  private takeFree(): Block {
    // TODO 3.1 (about 6 lines)
    // A Set keeps the order of insertion: `const [block] = this.free` is the first that came, or undefined.
    // `forget` is below.
    throw new TodoError('3.1', 'days/day3/block-manager.ts');
  }

  /** What the block holds can no longer be found. */
  private forget(block: Block): void {
    if (block.content && this.byHash.get(block.content.hash) === block) this.byHash.delete(block.content.hash);
    block.content = null;
  }

  /**
   * Checks what must always hold, given every sequence that has blocks: reference counts equal uses in
   * block tables, free and used blocks partition the pool, and findable blocks hash to their tokens.
   * @throws Error naming the first block that breaks a rule.
   */
  checkIntegrity(sequences: Iterable<Sequence>): void {
    const uses = new Array<number>(this.numBlocks).fill(0);
    for (const seq of sequences) for (const id of seq.blockTable) uses[id]++;
    for (const block of this.blocks) {
      if (block.refCount !== uses[block.id]) {
        throw new Error(`Block ${block.id} counts ${block.refCount} references; block tables hold ${uses[block.id]}.`);
      }
      if (this.free.has(block) !== (block.refCount === 0)) {
        throw new Error(`Block ${block.id} with ${block.refCount} references is on the wrong side of the free list.`);
      }
    }
    for (const [hash, block] of this.byHash) {
      const { content } = block;
      if (!content || content.hash !== hash || this.hash(content.tokenIds, content.prefix?.hash ?? null) !== hash) {
        throw new Error(
          `Block ${block.id} is found under hash ${hash}, which is not that of its tokens and its prefix.`,
        );
      }
      if (content.tokenIds.includes(PLACEHOLDER)) throw new Error(`Block ${block.id} is found by an unknown token.`);
    }
  }
}
