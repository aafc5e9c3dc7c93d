import { PLACEHOLDER, type Sequence } from '#nano/engine/sequence';
import { hashTokens, type TokenHash } from '#nano/utils/hash';

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
    // solution 3.1 (about 7 lines)
    // hint: Count before you take, so that a refusal changes nothing. Known blocks need no free one, unless they
    // hint: are free themselves (refCount 0): then they leave the free list too.
    // hint: Share the known blocks before you take free ones, or you may be given one of them.
    const shared = this.findPrefix(seq);
    const revived = shared.filter((block) => block.refCount === 0).length;
    if (seq.numBlocks - shared.length + revived > this.free.size) return false;
    for (const block of shared) this.share(block);
    seq.blockTable = shared.map((block) => block.id);
    while (seq.blockTable.length < seq.numBlocks) seq.blockTable.push(this.takeFree().id);
    seq.numCachedTokens = shared.length * this.blockSize;
    return true;
    // end solution
  }

  /**
   * Makes sure the last token has a slot: takes one more block when it is the first of one, and none when its block is
   * there already.
   * @returns false, with nothing changed, when a block is needed and none is free.
   */
  appendSlot(seq: Sequence): boolean {
    // solution 3.2 (about 4 lines)
    // hint: Compare the blocks its tokens need (`seq.numBlocks`) with the blocks it has.
    if (seq.numBlocks <= seq.blockTable.length) return true;
    if (this.free.size === 0) return false;
    seq.blockTable.push(this.takeFree().id);
    return true;
    // end solution
  }

  /**
   * Gives all blocks of a sequence back: each loses one reference, and is free when that was the last. What they hold stays
   * findable until they are reused. Those freed here are reused from the sequence's last block to its first.
   */
  deallocate(seq: Sequence): void {
    // solution 3.1 (about 6 lines)
    // hint: Walk the table from its end: the last block then joins the free list first and is reused first. Without
    // hint: the blocks before it nobody could find it anyway.
    // hint: Afterwards the sequence has an empty table, and nothing cached.
    for (const id of seq.blockTable.reverse()) {
      const block = this.blocks[id];
      if (--block.refCount === 0) this.free.add(block);
    }
    seq.blockTable = [];
    seq.numCachedTokens = 0;
    // end solution
  }

  /**
   * Makes findable what the sequence's first `numComputed` tokens fill: full blocks only, each with all that is before it as
   * its prefix. Blocks that are findable already stay as they are. Called after each step.
   */
  cacheFullBlocks(seq: Sequence, numComputed: number): void {
    if (!this.enablePrefixCaching) return;
    // solution 3.3 (about 6 lines)
    // hint: From block 0 on: a block's content is the prefix of the next. `remember` what has no content yet.
    // hint: (After each decode step at most the last full block is new, so the solution searches from the end.)
    const full = Math.floor(numComputed / this.blockSize);
    let first = full;
    while (first > 0 && !this.blocks[seq.blockTable[first - 1]].content) first--;
    let prefix = first > 0 ? this.blocks[seq.blockTable[first - 1]].content : null;
    for (let i = first; i < full; i++) {
      prefix = this.remember(this.blocks[seq.blockTable[i]], seq.block(i), prefix);
    }
    // end solution
  }

  /**
   * Known blocks that hold the sequence's first tokens, as many as there are without a gap; but one token at least must be
   * left to compute. Changes nothing.
   */
  private findPrefix(seq: Sequence): Block[] {
    const found: Block[] = [];
    if (!this.enablePrefixCaching) return found;
    // solution 3.3 (about 9 lines)
    // hint: Look block after block up, each with the content of the one before as its prefix; stop at the first that
    // hint: is not known. How many blocks can 8 tokens in blocks of 4 take over, if the last token must be left?
    // At least one token must be computed, or there would be no logits to draw the next one from.
    const most = Math.floor((seq.numTokens - 1) / this.blockSize);
    let prefix: Content | null = null;
    for (let i = 0; i < most; i++) {
      const block = this.lookUp(seq.block(i), prefix);
      if (!block?.content) break;
      found.push(block);
      prefix = block.content;
    }
    return found;
    // end solution
  }

  /**
   * The findable block that holds these tokens after this prefix. A hash only says where to look. The tokens are compared,
   * and so is the prefix: two different prefixes whose hashes collide could be followed by the same tokens, whose keys
   * and values would still differ.
   */
  private lookUp(tokenIds: readonly number[], prefix: Content | null): Block | undefined {
    // solution 3.3 (about 4 lines)
    // hint: `byHash` under `hash(tokenIds, the prefix's hash or null)`. Then see whether it really is what you want:
    // hint: the same prefix object, and the same tokens.
    const block = this.byHash.get(this.hash(tokenIds, prefix?.hash ?? null));
    const content = block?.content;
    if (!content || content.prefix !== prefix) return undefined;
    return content.tokenIds.every((token, i) => token === tokenIds[i]) ? block : undefined;
    // end solution
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
    // solution 3.3 (about 4 lines)
    // hint: The hash is chained: it is made from these tokens *and* the hash of the prefix.
    const hash = this.hash(tokenIds, prefix?.hash ?? null);
    block.content = { hash, tokenIds, prefix };
    this.byHash.set(hash, block);
    return block.content;
    // end solution
  }

  /** One more block table holds this block, which may have been free. */
  private share(block: Block): void {
    // solution 3.1 (about 1 line)
    // hint: A block is on the free list exactly while its refCount is 0.
    if (block.refCount++ === 0) this.free.delete(block);
    // end solution
  }

  /**
   * The block that has been free the longest, with one reference. What it held is forgotten: it will be overwritten.
   * @throws Error when no block is free.
   */
  private takeFree(): Block {
    // solution 3.1 (about 6 lines)
    // hint: A Set keeps the order of insertion: `const [block] = this.free` is the first that came, or undefined.
    // hint: `forget` is below.
    const [block] = this.free;
    if (!block) throw new Error('takeFree was called with no block free: the caller must check first.');
    this.free.delete(block);
    this.forget(block);
    block.refCount = 1;
    return block;
    // end solution
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
