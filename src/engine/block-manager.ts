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
 * §4.3), as an operating system lends pages: any free block will do, so nothing is lost to fragmentation
 * but the tail of each sequence's last block. Full blocks stay known by what they hold, and a new prompt that
 * begins alike takes them over instead of computing them again (prefix caching).
 *
 * Only full blocks are ever shared, and a full block is never written again: no copy-on-write is needed.
 */
export class BlockManager {
  private readonly blocks: Block[];
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
   * Gives a sequence blocks for all its tokens: cached ones for as long a prefix as is known, fresh ones for the rest,
   * and counts the found tokens as cached.
   * @returns false, with nothing changed, when there are not enough free blocks.
   */
  allocate(seq: Sequence): boolean {
    const shared = this.findPrefix(seq);
    const revived = shared.filter((block) => block.refCount === 0).length;
    if (seq.numBlocks - shared.length + revived > this.free.size) return false;
    for (const block of shared) this.share(block);
    seq.blockTable = shared.map((block) => block.id);
    while (seq.blockTable.length < seq.numBlocks) seq.blockTable.push(this.takeFree().id);
    seq.numCachedTokens = shared.length * this.blockSize;
    return true;
  }

  /**
   * Makes sure the last token has a slot: a new block when it is the first of one.
   * @returns false, with nothing changed, when no block is free.
   */
  appendSlot(seq: Sequence): boolean {
    if (seq.numBlocks <= seq.blockTable.length) return true;
    if (this.free.size === 0) return false;
    seq.blockTable.push(this.takeFree().id);
    return true;
  }

  /** Gives all blocks of a sequence back. What they hold stays findable until they are reused. */
  deallocate(seq: Sequence): void {
    // Last block first: it joins the free list earlier and is evicted earlier than the prefix before it, without
    // which it could not be found anyway.
    for (const id of seq.blockTable.reverse()) {
      const block = this.blocks[id];
      if (--block.refCount === 0) this.free.add(block);
    }
    seq.blockTable = [];
    seq.numCachedTokens = 0;
  }

  /** Makes the sequence's blocks findable that its first `numComputed` tokens fill. Call after each step. */
  cacheFullBlocks(seq: Sequence, numComputed: number): void {
    if (!this.enablePrefixCaching) return;
    const full = Math.floor(numComputed / this.blockSize);
    let first = full;
    while (first > 0 && !this.blocks[seq.blockTable[first - 1]].content) first--;
    let prefix = first > 0 ? this.blocks[seq.blockTable[first - 1]].content : null;
    for (let i = first; i < full; i++) {
      prefix = this.remember(this.blocks[seq.blockTable[i]], seq.block(i), prefix);
    }
  }

  /** Known blocks that hold the sequence's first tokens. */
  private findPrefix(seq: Sequence): Block[] {
    const found: Block[] = [];
    if (!this.enablePrefixCaching) return found;
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
  }

  /**
   * A hash only says where to look. The tokens are compared, and so is the prefix: two different prefixes whose hashes
   * collide could be followed by the same tokens, whose keys and values would still differ.
   */
  private lookUp(tokenIds: readonly number[], prefix: Content | null): Block | undefined {
    const block = this.byHash.get(this.hash(tokenIds, prefix?.hash ?? null));
    const content = block?.content;
    if (!content || content.prefix !== prefix) return undefined;
    return content.tokenIds.every((token, i) => token === tokenIds[i]) ? block : undefined;
  }

  private remember(block: Block, tokenIds: readonly number[], prefix: Content | null): Content {
    const known = this.lookUp(tokenIds, prefix);
    if (known?.content) {
      // Two sequences computed the same block side by side. The same content object keeps the
      // blocks after it findable through either; the one found first stays the one that is shared.
      block.content = known.content;
      return known.content;
    }
    const hash = this.hash(tokenIds, prefix?.hash ?? null);
    block.content = { hash, tokenIds, prefix };
    this.byHash.set(hash, block);
    return block.content;
  }

  private share(block: Block): void {
    if (block.refCount++ === 0) this.free.delete(block);
  }

  private takeFree(): Block {
    const [block] = this.free;
    if (!block) throw new Error('takeFree was called with no block free: the caller must check first.');
    this.free.delete(block);
    if (block.content && this.byHash.get(block.content.hash) === block) this.byHash.delete(block.content.hash);
    block.content = null;
    block.refCount = 1;
    return block;
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
        throw new Error(`Block ${block.id} is found under hash ${hash}, which is not that of its tokens.`);
      }
      if (content.tokenIds.includes(PLACEHOLDER)) throw new Error(`Block ${block.id} is found by an unknown token.`);
    }
  }
}
