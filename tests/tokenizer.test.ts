import { describe, expect, test } from 'vitest';
import { InvalidRequestError, ModelError } from '#nano/errors';
import { bytesOfToken } from '#nano/utils/byte-level';
import type { ChatMessage } from '#nano/utils/chat-template';
import { loadTokenizer, Tokenizer } from '#nano/utils/tokenizer';
import { MemoryFiles } from './helpers/memory-files';
import { qwen3Texts, qwen3Tokenizer, sentencePieceTokenizer } from './helpers/tokenizers';

const tokenizer = qwen3Tokenizer();

describe('encode and decode', () => {
  test('known ids of Qwen3', () => {
    expect(tokenizer.vocabSize).toBe(151669);
    expect(tokenizer.eosTokenId).toBe(151645);
    expect(tokenizer.isByteLevel).toBe(true);
    expect(tokenizer.encode('Hello, world!')).toEqual([9707, 11, 1879, 0]);
    expect(tokenizer.encode('')).toEqual([]);
  });

  test('special tokens in the text are parsed', () => {
    expect(tokenizer.encode('<|im_start|>user\nHi<|im_end|>')).toEqual([151644, 872, 198, 13048, 151645]);
    expect(tokenizer.isSpecial(151645)).toBe(true);
    expect(tokenizer.isSpecial(tokenizer.encode('<think>')[0])).toBe(false);
  });

  test.each(['naïve café', '你好，世界', '👩‍👩‍👧 family', 'a  b\n\n c\t', 'мир', '<think>\nhm\n</think>'])(
    'round trip of %j',
    (text) => {
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    },
  );

  test('skipSpecialTokens, broken characters and ids outside the vocabulary', () => {
    expect(tokenizer.decode([9707, 151645])).toBe('Hello<|im_end|>');
    expect(tokenizer.decode([9707, 151645], { skipSpecialTokens: true })).toBe('Hello');
    expect(tokenizer.decode([])).toBe('');
    expect(tokenizer.decode([151645], { skipSpecialTokens: true })).toBe('');
    expect(tokenizer.decode([151935, 9707, -1])).toBe('Hello');
    expect(tokenizer.decode(tokenizer.encode('😀🫠').slice(0, -1))).toBe('😀\ufffd');
  });

  test('spaces before punctuation stay', () => {
    const text = "I 'm here , you are n't ?";
    expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
  });

  test('a beginning-of-sequence token only where the tokenizer says so', () => {
    const llama = sentencePieceTokenizer();
    expect(llama.encode('ab')[0]).toBe(1);
    expect(llama.encode('ab', { addSpecialTokens: false })[0]).not.toBe(1);
    expect(sentencePieceTokenizer({ add_bos_token: false }).encode('ab')[0]).not.toBe(1);
    expect(llama.isByteLevel).toBe(false);
  });

  test('the bytes of tokens', () => {
    const hello = tokenizer.token(tokenizer.encode(' hello')[0]) ?? '';
    expect(hello).toBe('Ġhello');
    expect(new TextDecoder().decode(bytesOfToken(hello))).toBe(' hello');
    for (let id = 0; id < 256; id++) expect(bytesOfToken(tokenizer.token(id) ?? '')).toHaveLength(1);
  });
});

describe('chat template of Qwen3', () => {
  const hello: ChatMessage[] = [
    { role: 'system', content: 'Be brief.' },
    { role: 'user', content: 'Hello' },
  ];
  const start = '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n';

  test('with and without thinking', () => {
    expect(tokenizer.applyChatTemplate(hello)).toBe(`${start}<|im_start|>assistant\n`);
    expect(tokenizer.applyChatTemplate(hello, { enableThinking: true })).toBe(`${start}<|im_start|>assistant\n`);
    expect(tokenizer.applyChatTemplate(hello, { enableThinking: false })).toBe(
      `${start}<|im_start|>assistant\n<think>\n\n</think>\n\n`,
    );
    expect(tokenizer.applyChatTemplate(hello, { addGenerationPrompt: false })).toBe(start);
  });

  test('drops the thoughts of earlier turns', () => {
    const text = tokenizer.applyChatTemplate([
      { role: 'user', content: '1+1?' },
      { role: 'assistant', content: '<think>\nadd\n</think>\n\n2' },
      { role: 'user', content: '2+2?' },
    ]);
    expect(text).toBe(
      '<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n' +
        '<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n',
    );
  });

  test('tools', () => {
    const tools = [{ type: 'function', function: { name: 'add', parameters: { type: 'object' } } }];
    const text = tokenizer.applyChatTemplate(
      [
        { role: 'user', content: '1+1?' },
        { role: 'assistant', content: '', tool_calls: [{ name: 'add', arguments: { a: 1, b: 1 } }] },
        { role: 'tool', content: '2' },
      ],
      { tools },
    );
    expect(text).toContain(
      '<tools>\n{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}\n</tools>',
    );
    expect(text).toContain('<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 1}}\n</tool_call><|im_end|>');
    expect(text).toContain('<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n<|im_start|>assistant\n');
  });

  test('refuses what is no conversation', () => {
    expect(() => tokenizer.applyChatTemplate([])).toThrow('at least one message');
    const bad = [{ role: 'user' }] as unknown as ChatMessage[];
    expect(() => tokenizer.applyChatTemplate(bad)).toThrow('Message 0 must have a role and a content, both strings');
    expect(() => tokenizer.applyChatTemplate([null] as unknown as ChatMessage[])).toThrow(InvalidRequestError);
  });
});

describe('templates of other models', () => {
  const { tokenizerJson } = qwen3Texts();
  const small = JSON.stringify({
    ...JSON.parse(tokenizerJson),
    added_tokens: [],
    model: { type: 'BPE', vocab: { a: 0 }, merges: [] },
  });
  const user: ChatMessage[] = [{ role: 'user', content: 'Hi' }];
  const render = (config: object, file?: string) =>
    new Tokenizer(small, JSON.stringify(config), file).applyChatTemplate(user);

  test('chat_template.jinja goes before tokenizer_config.json, whose template may be a named one', () => {
    expect(render({ chat_template: 'from config' })).toBe('from config');
    expect(render({ chat_template: 'from config' }, 'from file')).toBe('from file');
    const named = [
      { name: 'tool_use', template: 'tools' },
      { name: 'default', template: 'plain' },
    ];
    expect(render({ chat_template: named })).toBe('plain');
  });

  test('special tokens by name, as text or as object', () => {
    const template = '{{ bos_token }}{{ messages[0].content }}{{ eos_token }}';
    expect(render({ bos_token: { content: '<s>' }, eos_token: '</s>', chat_template: template })).toBe('<s>Hi</s>');
  });

  test('no template, a broken one, one that refuses', () => {
    expect(() => render({})).toThrow('no chat template');
    expect(() => render({ chat_template: '{% if %}' })).toThrow(/does not parse/);
    const refusing = "{{ raise_exception('roles must alternate') }}";
    expect(() => render({ chat_template: refusing })).toThrow('refuses these messages: roles must alternate');
    expect(() => render({ chat_template: refusing })).toThrow(InvalidRequestError);
  });
});

describe('loading', () => {
  const { tokenizerJson, configJson } = qwen3Texts();

  test('from model files', async () => {
    const files = new MemoryFiles({
      'tokenizer.json': tokenizerJson,
      'tokenizer_config.json': configJson,
      'chat_template.jinja': 'from file',
    });
    const loaded = await loadTokenizer(files);
    expect(loaded.eosTokenId).toBe(151645);
    expect(loaded.applyChatTemplate([{ role: 'user', content: '' }])).toBe('from file');
    await expect(loadTokenizer(new MemoryFiles({}))).rejects.toThrow('tokenizer.json is missing');
  });

  test.each([
    ['not JSON', '{', 'tokenizer.json is not valid JSON'],
    ['not an object', '[]', 'tokenizer.json must hold a JSON object'],
    ['not a tokenizer', '{}', 'tokenizer.json is not supported'],
    [
      'an unknown model',
      JSON.stringify({ ...JSON.parse(sentencePieceTokenizer.json), model: { type: 'X' } }),
      'not supported',
    ],
  ])('refuses %s', (_, text, message) => {
    expect(() => new Tokenizer(text)).toThrow(message);
    expect(() => new Tokenizer(text)).toThrow(ModelError);
  });
});
