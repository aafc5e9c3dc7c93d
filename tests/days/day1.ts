import type { DayChecks } from './format';

export const day1: DayChecks = {
  tasks: ['1.1', '1.2', '1.3', '1.4', '1.5'],
  mistakes: [
    [
      ['config.ts', 'checkFields(CONFIG_FIELDS, options, ConfigError);', ''],
      ['sampling-params.ts', 'options.logprobs;', 'options.logprobs || undefined;'],
      [
        'sequence.ts',
        'return Math.ceil(this.numTokens / this.blockSize);',
        'return Math.floor(this.numTokens / this.blockSize) + 1;',
      ],
      ['sequence.ts', "this.move('running', 'waiting');", "this.status = 'waiting';"],
      ['context.ts', '.fill(-1)', ''],
    ],
    [
      ['config.ts', 'options.enablePrefixCaching ?? true', 'options.enablePrefixCaching || true'],
      [
        'sampling-params.ts',
        "typeof options.stop === 'string' ? [options.stop] : options.stop",
        'options.stop as string[]',
      ],
      [
        'sequence.ts',
        'return this.numTokens - (this.numBlocks - 1) * this.blockSize;',
        'return this.numTokens % this.blockSize;',
      ],
      ['sequence.ts', 'this.blockTable = [];', ''],
      ['context.ts', '+ (i % blockSize)', '+ (i - start)'],
    ],
    [
      ['config.ts', 'this.maxModelLen > capacity', 'this.maxModelLen >= capacity'],
      ['sampling-params.ts', '{ ...options, stop }', '{ stop }'],
      ['sequence.ts', 'i >= this.numBlocks', 'i > this.numBlocks'],
      ['sequence.ts', 'if (this.isFinished) throw', "if (this.status === 'waiting') throw"],
      ['context.ts', 'Math.max(1, ', 'Math.max('],
    ],
    [
      ['config.ts', 'Math.min(128, this.maxNumBatchedTokens)', '128'],
      ['sampling-params.ts', 'InvalidRequestError);', 'Error as never);'],
      [
        'sequence.ts',
        'this.tokenIds.slice(i * this.blockSize, (i + 1) * this.blockSize)',
        'this.tokenIds.splice(i * this.blockSize, this.blockSize)',
      ],
      ['sequence.ts', 'if (this.status !== from)', 'if (this.isFinished)'],
      ['context.ts', 'new Int32Array(lengths.length + 1)', 'new Int32Array(lengths.length)'],
    ],
  ],
  alternatives: [
    ['config.ts', 'this.seed = options.seed ?? 0;', 'this.seed = options.seed === undefined ? 0 : options.seed;'],
    [
      'config.ts',
      'const capacity = this.numKvCacheBlocks * this.kvCacheBlockSize;',
      'let capacity = 0;\n    for (let i = 0; i < this.numKvCacheBlocks; i++) capacity += this.kvCacheBlockSize;',
    ],
    [
      'sampling-params.ts',
      "typeof options.stop === 'string' ? [options.stop] : options.stop",
      'options.stop === undefined || Array.isArray(options.stop) ? options.stop : [options.stop]',
    ],
    [
      'sequence.ts',
      'return Math.ceil(this.numTokens / this.blockSize);',
      'return Math.floor((this.numTokens + this.blockSize - 1) / this.blockSize);',
    ],
    [
      'sequence.ts',
      'return this.numTokens - (this.numBlocks - 1) * this.blockSize;',
      'return this.numTokens % this.blockSize || this.blockSize;',
    ],
    [
      'sequence.ts',
      'return this.tokenIds.slice(i * this.blockSize, (i + 1) * this.blockSize);',
      'return this.tokenIds.filter((_, t) => Math.floor(t / this.blockSize) === i);',
    ],
    ['sequence.ts', 'this.blockTable = [];', 'this.blockTable.length = 0;'],
    ['sequence.ts', ' and cannot go from', ': no way from'],
    [
      'context.ts',
      'for (let b = 0; b < lengths.length; b++) totals[b + 1] = totals[b] + lengths[b];',
      'lengths.reduce((sum, length, b) => (totals[b + 1] = sum + length), 0);',
    ],
    [
      'context.ts',
      'tables.forEach((table, b) => values.set(table, b * width));',
      'for (const [b, table] of tables.entries()) for (const [i, block] of table.entries()) values[b * width + i] = block;',
    ],
  ],
};
