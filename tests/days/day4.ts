import type { DayChecks } from './format';

export const day4: DayChecks = {
  tasks: ['4.1', '4.2', '4.3', '4.4', '4.5', '4.6'],
  mistakes: [
    [
      // A length off by one.
      ['scheduler.ts', 'numTokens - seq.numPromptTokens >= maxTokens', 'numTokens - seq.numPromptTokens > maxTokens'],
      // A cut sequence draws.
      ['scheduler.ts', 'numDrawing: isCut ? last : seqs.length', 'numDrawing: seqs.length'],
      // The budget is never used up.
      ['scheduler.ts', 'budget -= planTokens(seq, budget);', 'planTokens(seq, budget);'],
      // The oldest goes.
      ['scheduler.ts', 'const victim = this.running.pop();', 'const victim = this.running.shift();'],
      // Decode before prefill.
      [
        'scheduler.ts',
        'const prefill = this.schedulePrefill();',
        'const decode = this.scheduleDecode();\n    if (decode.length > 0) return toBatch(false, decode);\n    const prefill = this.schedulePrefill();',
      ],
      // Positions restart for each chunk.
      ['model-runner.ts', 'positions[t] = i;', 'positions[t] = i - start;'],
    ],
    [
      // ignoreEos is ignored.
      ['scheduler.ts', '!ignoreEos && this.eosTokenIds', 'this.eosTokenIds'],
      // Cached tokens are planned again.
      ['scheduler.ts', 'Math.min(seq.numTokens - seq.numCachedTokens, budget)', 'Math.min(seq.numTokens, budget)'],
      // Cached tokens count against the budget.
      [
        'scheduler.ts',
        'budget -= planTokens(seq, budget);',
        'planTokens(seq, budget);\n      budget -= seq.numCachedTokens + seq.numScheduledTokens;',
      ],
      // The preempted go to the tail of the queue.
      ['scheduler.ts', 'this.waiting.unshift(seq);', 'this.waiting.push(seq);'],
      // No slot for the token.
      ['scheduler.ts', 'if (!this.makeRoom(seq)) break;', ''],
      // The keys in the cache are forgotten.
      ['model-runner.ts', 'cumulativeLengths(numKeys)', 'cuSeqlensQ'],
    ],
    [
      // ignoreEos also switches the request's own stop tokens off.
      ['scheduler.ts', 'if (stopTokenIds', 'if (!ignoreEos && stopTokenIds'],
      // A plan over the budget.
      ['scheduler.ts', 'Math.min(seq.numTokens - seq.numCachedTokens, budget)', 'seq.numTokens - seq.numCachedTokens'],
      // A cut prompt is admitted again, and its first blocks are lost.
      ['scheduler.ts', 'if (!isAdmitted && !this.admit(seq)) break;', 'if (!this.admit(seq)) break;'],
      // The block table is forgotten before its blocks are given back.
      ['scheduler.ts', 'this.release(seq);\n    seq.preempt();', 'seq.preempt();\n    this.release(seq);'],
      // Over a copy: it comes to the preempted ones, too.
      [
        'scheduler.ts',
        'for (let i = 0; i < this.running.length; i++) {\n      const seq = this.running[i];\n      if (this.isFull',
        'for (const seq of [...this.running]) {\n      if (this.isFull',
      ],
      // The last row is the first of the next sequence.
      ['model-runner.ts', '.map((end) => end - 1)', '.slice()'],
    ],
    [
      // The prompt counts as output.
      ['scheduler.ts', 'numTokens - seq.numPromptTokens >= maxTokens', 'numTokens >= maxTokens'],
      // Exactly the whole prompt counts as cut.
      ['scheduler.ts', 'ends[last] < seqs[last].numTokens', 'ends[last] <= seqs[last].numTokens'],
      // One too many runs.
      ['scheduler.ts', 'this.running.length < this.limits', 'this.running.length <= this.limits'],
      // One preemption, then it gives up.
      ['scheduler.ts', 'while (!this.blockManager.appendSlot(seq))', 'if (!this.blockManager.appendSlot(seq))'],
      // One that waits for its last token holds up all behind it.
      ['scheduler.ts', 'if (this.isFull(seq, seq.numTokens)) continue;', 'if (this.isFull(seq, seq.numTokens)) break;'],
      // All tokens that are left, whatever was planned.
      [
        'model-runner.ts',
        'seqs.map((seq) => seq.numCachedTokens + seq.numScheduledTokens)',
        'seqs.map((seq) => seq.numTokens)',
      ],
    ],
    [
      // A stop that comes with the last allowed token is called a length.
      [
        'scheduler.ts',
        'if (!ignoreEos && this.eosTokenIds',
        "if (this.isFull(seq, seq.numKnownTokens)) return 'length';\n    if (!ignoreEos && this.eosTokenIds",
      ],
      // Only what this step computes.
      [
        'scheduler.ts',
        'seqs.map((seq) => seq.numCachedTokens + seq.numScheduledTokens)',
        'seqs.map((seq) => seq.numScheduledTokens)',
      ],
      // Shortest first: a long prompt may wait for ever.
      [
        'scheduler.ts',
        'const scheduled: Sequence[] = [];\n    let budget',
        'this.waiting.sort((a, b) => a.numTokens - b.numTokens);\n    const scheduled: Sequence[] = [];\n    let budget',
      ],
      // The sequence that had to go itself is computed all the same.
      ['scheduler.ts', 'if (victim === seq) return false;', ''],
      // Prompts and decoding sequences in one batch.
      [
        'scheduler.ts',
        'if (prefill.length > 0) return toBatch(true, prefill);',
        'if (prefill.length > 0) return toBatch(true, [...this.scheduleDecode(), ...prefill]);',
      ],
      // Slots from the beginning of the sequence.
      [
        'model-runner.ts',
        'slotsFor(seq.blockTable, start, end, blockSize)',
        'slotsFor(seq.blockTable, 0, end - start, blockSize)',
      ],
    ],
  ],
  alternatives: [
    [
      'scheduler.ts',
      "if (stopTokenIds.includes(seq.lastToken)) return 'stop';",
      "for (const id of stopTokenIds) if (id === seq.tokenIds[seq.numKnownTokens - 1]) return 'stop';",
    ],
    [
      'scheduler.ts',
      'return numTokens - seq.numPromptTokens >= maxTokens || numTokens >= this.limits.maxModelLen;',
      'return numTokens >= Math.min(seq.numPromptTokens + maxTokens, this.limits.maxModelLen);',
    ],
    [
      'scheduler.ts',
      'seq.numScheduledTokens = Math.min(seq.numTokens - seq.numCachedTokens, budget);\n  return seq.numScheduledTokens;',
      'const left = seq.numTokens - seq.numCachedTokens;\n  return (seq.numScheduledTokens = left > budget ? budget : left);',
    ],
    [
      'scheduler.ts',
      'numDrawing: isCut ? last : seqs.length',
      'numDrawing: seqs.filter((seq, i) => ends[i] === seq.numTokens).length',
    ],
    [
      'scheduler.ts',
      'while (this.waiting.length > 0 && budget > 0 && this.running.length < this.limits.maxNumSeqs) {\n      const seq = this.waiting[0];',
      'for (const seq of [...this.waiting]) {\n      if (budget === 0 || this.running.length === this.limits.maxNumSeqs) break;',
    ],
    [
      'scheduler.ts',
      'const isAdmitted = seq.blockTable.length > 0;',
      'const isAdmitted = seq.tokenSlot >= 0 || seq.blockTable.length > 0;',
    ],
    [
      'scheduler.ts',
      'if (seq.numCachedTokens + seq.numScheduledTokens < seq.numTokens) break;\n      this.waiting.shift();\n      seq.start();\n      this.running.push(seq);',
      'if (seq.numCachedTokens + seq.numScheduledTokens === seq.numTokens) {\n        seq.start();\n        this.running.push(...this.waiting.splice(0, 1));\n      }',
    ],
    [
      'scheduler.ts',
      'while (!this.blockManager.appendSlot(seq)) {',
      'for (;;) {\n      if (this.blockManager.appendSlot(seq)) break;',
    ],
    ['scheduler.ts', 'const victim = this.running.pop();', 'const [victim] = this.running.splice(-1);'],
    [
      'scheduler.ts',
      'this.release(seq);\n    seq.preempt();\n    this.waiting.unshift(seq);\n    this.numPreemptions++;',
      'this.numPreemptions += 1;\n    this.waiting.splice(0, 0, seq);\n    this.release(seq);\n    seq.preempt();',
    ],
    [
      'scheduler.ts',
      'for (let i = 0; i < this.running.length; i++) {\n      const seq = this.running[i];\n      if (this.isFull',
      "for (const seq of [...this.running]) {\n      if (seq.status !== 'running') continue;\n      if (this.isFull",
    ],
    ['scheduler.ts', 'if (!this.makeRoom(seq)) break;', 'if (!this.makeRoom(seq)) return scheduled;'],
    [
      'scheduler.ts',
      'if (prefill.length > 0) return toBatch(true, prefill);\n    return toBatch(false, this.scheduleDecode());',
      'const isPrefill = prefill.length > 0;\n    return toBatch(isPrefill, isPrefill ? prefill : this.scheduleDecode());',
    ],
    [
      'model-runner.ts',
      'for (let i = start, t = cuSeqlensQ[b]; i < end; i++, t++) {\n      inputIds[t] = seq.tokenIds[i];\n      positions[t] = i;\n    }',
      'inputIds.set(seq.tokenIds.slice(start, end), cuSeqlensQ[b]);\n    for (let t = cuSeqlensQ[b]; t < cuSeqlensQ[b + 1]; t++) positions[t] = start + t - cuSeqlensQ[b];',
    ],
    [
      'model-runner.ts',
      'cuSeqlensQ.subarray(1).map((end) => end - 1)',
      'Int32Array.from(seqs, (seq, b) => cuSeqlensQ[b] + seq.numScheduledTokens - 1)',
    ],
  ],
};
