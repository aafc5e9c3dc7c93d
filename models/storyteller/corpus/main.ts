/**
 * Writes the corpus, one JSON string (a document) or object (a story and its questions) per line:
 *
 *   node corpus.mjs --seed 1 --count 100000 --split train   --out train.jsonl
 *   node corpus.mjs --seed 9 --count 500    --split heldout --out heldout.jsonl --stories
 *
 * Without --out it writes to standard output.
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { heldOutStories, makeDocument, Random } from './index.js';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    count: { type: 'string', default: '10' },
    split: { type: 'string', default: 'train' },
    out: { type: 'string' },
    stories: { type: 'boolean', default: false },
  },
});

const { split } = values;
if (split !== 'train' && split !== 'heldout') throw new Error(`Expected --split train or heldout, got ${split}`);
const seed = Number(values.seed);
const count = Number(values.count);
const file = values.out ? openSync(values.out, 'w') : 1;

/** Writes all of it, also into a pipe that is full for the moment. */
function write(text: string): void {
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; ) {
    try {
      at += writeSync(file, bytes, at);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
    }
  }
}

if (values.stories) {
  for (const story of heldOutStories(seed, count, split)) write(`${JSON.stringify(story)}\n`);
} else {
  let batch = '';
  for (let i = 0; i < count; i++) {
    batch += `${JSON.stringify(makeDocument(new Random(seed, i), split))}\n`;
    if (batch.length > 1 << 20) {
      write(batch);
      batch = '';
    }
  }
  write(batch);
}
if (file !== 1) closeSync(file);
