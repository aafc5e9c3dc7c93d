import type { DayChecks } from './format';

const BLOCKS = 'block-manager.ts';
const ATTENTION = 'attention.ts';

export const day3: DayChecks = {
  tasks: ['3.1', '3.2', '3.3', '3.4', '3.5', '3.6'],
  mistakes: [
    [
      // A shared block counts no second reference.
      [BLOCKS, 'if (block.refCount++ === 0) this.free.delete(block);', 'this.free.delete(block);'],
      // The new block comes with the last token of the old one.
      [
        BLOCKS,
        'if (seq.numBlocks <= seq.blockTable.length) return true;',
        'if (seq.numTokens % this.blockSize) return true;',
      ],
      // The hash is not chained.
      [
        BLOCKS,
        'this.byHash.get(this.hash(tokenIds, prefix?.hash ?? null))',
        'this.byHash.get(this.hash(tokenIds, null))',
      ],
      [BLOCKS, 'const hash = this.hash(tokenIds, prefix?.hash ?? null);', 'const hash = this.hash(tokenIds, null);'],
      // Scores are not scaled.
      [
        ATTENTION,
        'scores[j] = dot(q, qStart, k, kAt(j, kvHead), dim) * scale;',
        'scores[j] = dot(q, qStart, k, kAt(j, kvHead), dim);',
      ],
      // The accumulator is not rescaled when the maximum grows.
      [ATTENTION, 'for (let i = 0; i < dim; i++) acc[i] *= correction;', ''],
      // The second half of a block is looked for in the next.
      [ATTENTION, 'table[Math.floor(j / blockSize)]', 'table[Math.round(j / blockSize)]'],
    ],
    [
      // Whoever leaves first frees a shared block for all.
      [BLOCKS, 'if (--block.refCount === 0) this.free.add(block);', 'block.refCount = 0;\n      this.free.add(block);'],
      // No block free: refused, also where none is needed.
      [
        BLOCKS,
        'if (seq.numBlocks <= seq.blockTable.length) return true;\n    if (this.free.size === 0) return false;',
        'if (this.free.size === 0) return false;\n    if (seq.numBlocks <= seq.blockTable.length) return true;',
      ],
      // Blocks that are not full become findable.
      [
        BLOCKS,
        'const full = Math.floor(numComputed / this.blockSize);',
        'const full = Math.ceil(numComputed / this.blockSize);',
      ],
      // The causal mask is aligned at the top left.
      [ATTENTION, 'Math.max(0, keys - queries + i + 1)', 'Math.min(keys, i + 1)'],
      // The sum is not rescaled when the maximum grows.
      [ATTENTION, 'sum *= correction;', ''],
      // -1 is not skipped.
      [ATTENTION, 'if (slot === -1) return;', ''],
    ],
    [
      // Known blocks that are free are not counted as needed.
      [
        BLOCKS,
        'seq.numBlocks - shared.length + revived > this.free.size',
        'seq.numBlocks - shared.length > this.free.size',
      ],
      // A block too many when the last is full.
      [
        BLOCKS,
        'if (seq.numBlocks <= seq.blockTable.length) return true;',
        'if (seq.numBlocks < seq.blockTable.length) return true;',
      ],
      // The tokens are not compared.
      [
        BLOCKS,
        'return content.tokenIds.every((token, i) => token === tokenIds[i]) ? block : undefined;',
        'return block;',
      ],
      // Query heads take turns over the key heads.
      [ATTENTION, 'return Math.floor(head / (heads / kvHeads));', 'return head % kvHeads;'],
      // The last tile is read to its end, past the last key.
      [ATTENTION, 'const count = Math.min(TILE, visible - first);', 'const count = TILE;'],
      // The new token does not see itself.
      [ATTENTION, 'keys,\n      causal: false,', 'keys: Math.max(0, keys - 1),\n      causal: false,'],
    ],
    [
      // A block that is taken keeps the count 0.
      [BLOCKS, 'block.refCount = 1;', ''],
      // Out of blocks, it throws instead of saying so.
      [BLOCKS, '    if (this.free.size === 0) return false;\n    seq.blockTable.push', '    seq.blockTable.push'],
      // A prompt may be found whole: no token is left to compute.
      [
        BLOCKS,
        'const most = Math.floor((seq.numTokens - 1) / this.blockSize);',
        'const most = Math.floor(seq.numTokens / this.blockSize);',
      ],
      // Exponentials of the scores as they are.
      [ATTENTION, 'scores[j] = Math.exp(scores[j] - max);', 'scores[j] = Math.exp(scores[j]);'],
      // The maximum begins at 0.
      [ATTENTION, '  let max = -Infinity;\n  let sum = 0;\n  for', '  let max = 0;\n  let sum = 0;\n  for'],
      // The cache is written as if it were float32.
      [ATTENTION, 'target[at + i] = roundTo(dtype, source[start + i]);', 'target[at + i] = source[start + i];'],
    ],
    [
      // Free blocks are taken first: known ones among them.
      [BLOCKS, 'for (const block of shared) this.share(block);\n', ''],
      [
        BLOCKS,
        'seq.numCachedTokens = shared.length * this.blockSize;',
        'for (const block of shared) this.share(block);\n    seq.numCachedTokens = shared.length * this.blockSize;',
      ],
      // Right for most block sizes, wrong for blocks of one token.
      [
        BLOCKS,
        'if (seq.numBlocks <= seq.blockTable.length) return true;',
        'if (seq.numTokens % this.blockSize !== 1) return true;',
      ],
      // The same tokens after another prefix pass for the same block, where the hashes collide.
      [BLOCKS, '!content || content.prefix !== prefix', '!content'],
      // What is in the output already is added to.
      [ATTENTION, 'out.fill(0, outStart, outStart + dim);', ''],
      // 0 / 0 where there is no key.
      [ATTENTION, 'sum > 0 ? acc[i] / sum : 0;', 'acc[i] / sum;'],
      // As if k and v were not cut from a wider projection.
      [
        ATTENTION,
        'from.offset + t * from.strides[0] + h * from.strides[1];\n      const at',
        '(t * heads + h) * dim;\n      const at',
      ],
    ],
  ],
  alternatives: [
    // allocate with a loop that counts, deallocate from a copy, takeFree through the iterator.
    [
      BLOCKS,
      `const revived = shared.filter((block) => block.refCount === 0).length;
    if (seq.numBlocks - shared.length + revived > this.free.size) return false;
    for (const block of shared) this.share(block);
    seq.blockTable = shared.map((block) => block.id);
    while (seq.blockTable.length < seq.numBlocks) seq.blockTable.push(this.takeFree().id);`,
      `let needed = seq.numBlocks;
    for (const { refCount } of shared) if (refCount > 0) needed--;
    if (needed > this.numFreeBlocks) return false;
    const table: number[] = [];
    for (let i = 0; i < seq.numBlocks; i++) {
      if (i < shared.length) this.share(shared[i]);
      table[i] = i < shared.length ? shared[i].id : this.takeFree().id;
    }
    seq.blockTable = table;`,
    ],
    [
      BLOCKS,
      `for (const id of seq.blockTable.reverse()) {
      const block = this.blocks[id];
      if (--block.refCount === 0) this.free.add(block);
    }
    seq.blockTable = [];`,
      `for (let i = seq.blockTable.length; i-- > 0; ) {
      const block = this.blocks[seq.blockTable[i]];
      block.refCount -= 1;
      if (block.refCount > 0) continue;
      this.free.add(block);
    }
    seq.blockTable.length = 0;`,
    ],
    [
      BLOCKS,
      'if (block.refCount++ === 0) this.free.delete(block);',
      'this.free.delete(block);\n    block.refCount = block.refCount + 1;',
    ],
    [BLOCKS, 'const [block] = this.free;', 'const block = this.free.values().next().value as Block;'],
    [
      BLOCKS,
      `if (seq.numBlocks <= seq.blockTable.length) return true;
    if (this.free.size === 0) return false;
    seq.blockTable.push(this.takeFree().id);
    return true;`,
      `const room = seq.blockTable.length * this.blockSize;
    if (seq.numTokens > room) {
      if (this.numFreeBlocks < 1) return false;
      seq.blockTable = [...seq.blockTable, this.takeFree().id];
    }
    return true;`,
    ],
    // From the first block on, at every step.
    [
      BLOCKS,
      `let first = full;
    while (first > 0 && !this.blocks[seq.blockTable[first - 1]].content) first--;
    let prefix = first > 0 ? this.blocks[seq.blockTable[first - 1]].content : null;
    for (let i = first; i < full; i++) {
      prefix = this.remember(this.blocks[seq.blockTable[i]], seq.block(i), prefix);
    }`,
      `let prefix: Content | null = null;
    for (let i = 0; i < full; i++) {
      const block: Block = this.blocks[seq.blockTable[i]];
      prefix = block.content ?? this.remember(block, seq.block(i), prefix);
    }`,
    ],
    [
      BLOCKS,
      `const most = Math.floor((seq.numTokens - 1) / this.blockSize);
    let prefix: Content | null = null;
    for (let i = 0; i < most; i++) {
      const block = this.lookUp(seq.block(i), prefix);
      if (!block?.content) break;
      found.push(block);
      prefix = block.content;
    }
    return found;`,
      `while ((found.length + 1) * this.blockSize < seq.numTokens) {
      const block = this.lookUp(seq.block(found.length), found.at(-1)?.content ?? null);
      if (block === undefined) return found;
      found.push(block);
    }
    return found;`,
    ],
    [
      BLOCKS,
      `const content = block?.content;
    if (!content || content.prefix !== prefix) return undefined;
    return content.tokenIds.every((token, i) => token === tokenIds[i]) ? block : undefined;`,
      `const textOf = (c: Content | null): string => (c ? \`\${textOf(c.prefix)}|\${c.tokenIds.join()}\` : '');
    if (!block?.content) return undefined;
    return textOf(block.content) === \`\${textOf(prefix)}|\${tokenIds.join()}\` ? block : undefined;`,
    ],
    [
      ATTENTION,
      'return causal ? Math.max(0, keys - queries + i + 1) : keys;',
      'if (!causal) return keys;\n  const after = queries - 1 - i;\n  return after >= keys ? 0 : keys - after;',
    ],
    [ATTENTION, 'return Math.floor(head / (heads / kvHeads));', 'return Math.trunc((head * kvHeads) / heads);'],
    // Naive attention in float64, values in the outer loop.
    [
      ATTENTION,
      `    let max = -Infinity;
    for (let j = 0; j < visible; j++) {
      scores[j] = dot(q, qStart, k, kAt(j, kvHead), dim) * scale;
      max = Math.max(max, scores[j]);
    }
    let sum = 0;
    for (let j = 0; j < visible; j++) {
      scores[j] = Math.exp(scores[j] - max);
      sum += scores[j];
    }
    out.fill(0, outStart, outStart + dim);
    for (let j = 0; j < visible; j++) {
      const start = vAt(j, kvHead);
      for (let i = 0; i < dim; i++) out[outStart + i] += (scores[j] / sum) * v[start + i];
    }`,
      `    const logits = Array.from({ length: visible }, (_, j) => {
      const start = kAt(j, kvHead);
      let total = 0;
      for (let i = dim - 1; i >= 0; i--) total += scale * q[qStart + i] * k[start + i];
      return total;
    });
    const top = Math.max(...logits);
    const weights = logits.map((x) => Math.exp(x - top));
    const norm = weights.reduce((a, b) => a + b, 0);
    for (let i = 0; i < dim; i++) {
      let total = 0;
      for (let j = 0; j < visible; j++) total += weights[j] * v[vAt(j, kvHead) + i];
      out[outStart + i] = visible ? total / norm : 0;
    }`,
    ],
    // Online softmax key by key, straight into the output.
    [
      ATTENTION,
      `  const acc = new Float32Array(dim);
  const scores = new Float32Array(TILE);
  let max = -Infinity;
  let sum = 0;
  for (let first = 0; first < visible; first += TILE) {
    const count = Math.min(TILE, visible - first);
    let tileMax = max;
    for (let j = 0; j < count; j++) {
      scores[j] = dot(q, qStart, k, kAt(first + j, kvHead), dim) * scale;
      tileMax = Math.max(tileMax, scores[j]);
    }
    const correction = Math.exp(max - tileMax); // 0 for the first tile: e^-inf
    max = tileMax;
    sum *= correction;
    for (let i = 0; i < dim; i++) acc[i] *= correction;
    for (let j = 0; j < count; j++) {
      const p = Math.exp(scores[j] - max);
      sum += p;
      const start = vAt(first + j, kvHead);
      for (let i = 0; i < dim; i++) acc[i] += p * v[start + i];
    }
  }
  for (let i = 0; i < dim; i++) out[outStart + i] = sum > 0 ? acc[i] / sum : 0;`,
      `  const result = out.subarray(outStart, outStart + dim).fill(0);
  let [max, sum] = [Number.NEGATIVE_INFINITY, 0];
  for (let j = 0; j < visible; j++) {
    const score = scale * dot(k, kAt(j, kvHead), q, qStart, dim);
    const top = score > max ? score : max;
    const [old, p] = [Math.exp(max - top), Math.exp(score - top)];
    const start = vAt(j, kvHead);
    result.forEach((x, i) => {
      result[i] = x * old + p * v[start + i];
    });
    [max, sum] = [top, sum * old + p];
  }
  if (sum > 0) for (let i = 0; i < dim; i++) result[i] /= sum;`,
    ],
    [
      ATTENTION,
      `slots.forEach((slot, t) => {
    if (slot === -1) return;
    if (slot < 0 || slot >= numSlots)
      throw new InvalidTensorError(\`Slot \${slot} is outside the cache's \${numSlots} slots.\`);
    for (let h = 0; h < heads; h++) {
      const start = from.offset + t * from.strides[0] + h * from.strides[1];
      const at = cache.offset + (slot * heads + h) * dim;
      for (let i = 0; i < dim; i++) target[at + i] = roundTo(dtype, source[start + i]);
    }
  });`,
      `for (const [t, slot] of slots.entries()) {
    if (slot < -1 || slot >= numSlots) throw new InvalidTensorError(\`There is no slot \${slot}.\`);
    if (slot < 0) continue;
    for (let i = 0; i < heads * dim; i++) {
      const start = from.offset + t * from.strides[0] + Math.floor(i / dim) * from.strides[1];
      target[cache.offset + slot * heads * dim + i] = roundTo(dtype, source[start + (i % dim)]);
    }
  }`,
    ],
    [
      ATTENTION,
      `const block = table[Math.floor(j / blockSize)];
    if (block === undefined || block < 0 || block >= blocks) {
      throw new InvalidTensorError(\`Block \${block} is outside the cache's \${blocks} blocks.\`);
    }
    return kv.offset + block * kv.strides[0] + (j % blockSize) * kv.strides[1] + head * kv.strides[2];`,
      `const logical = (j - (j % blockSize)) / blockSize;
    const block = logical < table.length ? table[logical] : -1;
    if (!(block >= 0 && block < blocks)) throw new InvalidTensorError(\`No block \${block}.\`);
    return kv.offset + (block * blockSize + j - logical * blockSize) * kv.strides[1] + head * kv.strides[2];`,
    ],
    // One sequence after the other, as causal attention of one query.
    [
      ATTENTION,
      `ints(args.contextLens).forEach((keys, b) => {
    const table = tableOf(blockTables, b);
    attendSequence(out, q, kCache, vCache, {
      firstQuery: b,
      queries: 1,
      keys,
      causal: false,
      kAt: pagedStarts(kCache, table),
      vAt: pagedStarts(vCache, table),
      softmaxScale,
      workspace,
      workspaceRow: b,
    });
  });`,
      `for (let b = 0; b < q.shape[0]; b++) {
    const [kAt, vAt] = [kCache, vCache].map((cache) => pagedStarts(cache, tableOf(blockTables, b)));
    const keys = ints(args.contextLens)[b];
    const one = { firstQuery: b, queries: 1, keys, causal: true, kAt, vAt, softmaxScale, workspace, workspaceRow: 0 };
    attendSequence(out, q, kCache, vCache, one);
  }`,
    ],
  ],
};
