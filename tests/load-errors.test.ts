import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Config, type ConfigOptions } from '#nano/config';
import { LLM } from '#nano/llm';

const GOLDEN = fileURLToPath(new URL('goldens/gqa2-d64-tied', import.meta.url));
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'nano-vllm-'));
  cpSync(GOLDEN, folder, { recursive: true });
});
afterEach(() => rmSync(folder, { recursive: true }));

/** Changes fields of config.json; undefined removes one. */
function editConfig(changes: Record<string, unknown>): void {
  const path = join(folder, 'config.json');
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...changes }));
}

/** Rewrites the header of model.safetensors, keeping its data. */
function editHeader(edit: (header: Record<string, { dtype: string; shape: number[] }>) => void): void {
  const path = join(folder, 'model.safetensors');
  const file = readFileSync(path);
  const length = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.subarray(8, 8 + length).toString());
  edit(header);
  const text = Buffer.from(JSON.stringify(header));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([size, text, file.subarray(8 + length)]));
}

async function loadError(options: ConfigOptions = {}): Promise<Error> {
  try {
    const llm = await LLM.load(folder, options);
    await llm.close();
  } catch (error) {
    return error as Error;
  }
  throw new Error('The model loaded.');
}

test('the unchanged folder loads and generates', async () => {
  const llm = await LLM.load(folder, { maxModelLen: 64 });
  expect((await llm.generate([[1, 2, 3]], { temperature: 0, maxTokens: 4, ignoreEos: true }))[0].tokenIds).toHaveLength(
    4,
  );
  await llm.close();
});

describe('a model folder that is not right is refused with the reason', () => {
  test.each<[string, Record<string, unknown>, RegExp]>([
    [
      'an unknown architecture',
      { architectures: ['GPT2LMHeadModel'] },
      /'GPT2LMHeadModel' is not supported.*Qwen3ForCausalLM/,
    ],
    ['no architecture', { architectures: undefined }, /architectures must name the model class/],
    [
      'heads that do not divide',
      { num_attention_heads: 5 },
      /num_attention_heads 5 must be a multiple of num_key_value_heads 2/,
    ],
    ['an odd head size', { head_dim: 63 }, /head_dim must be even and at most 256, got 63/],
    ['a missing size', { hidden_size: undefined }, /hidden_size must be a whole number of at least 1/],
    ['a fractional size', { num_hidden_layers: 1.5 }, /num_hidden_layers .* got 1.5/],
    ['another activation', { hidden_act: 'gelu' }, /hidden_act "gelu" is not supported, only 'silu'/],
    ['sliding windows', { use_sliding_window: true }, /use_sliding_window true is not supported/],
    [
      'a layer that sees only its neighbours',
      { layer_types: ['full_attention', 'sliding_attention'] },
      /layer_types \["full_attention","sliding_attention"\] is not supported, only 'full_attention' in every layer/,
    ],
    [
      'scaled rope',
      { rope_parameters: undefined, rope_scaling: { rope_type: 'yarn' } },
      /rope type "yarn" is not supported/,
    ],
    ['another dtype', { dtype: 'int8' }, /dtype "int8" is not supported/],
    ['a config of another model', { hidden_size: 128 }, /embed_tokens.weight.*96.*128|128.*96/],
    ['more layers than there are', { num_hidden_layers: 3 }, /model.layers.2.*/],
    ['an output layer that is not there', { tie_word_embeddings: false }, /lm_head.weight/],
  ])('%s', async (_, changes, message) => {
    editConfig(changes);
    const error = await loadError();
    expect(error.message).toMatch(message);
    expect(error.name).toBe('ModelError');
  });

  test('config.json that is no JSON, or missing', async () => {
    writeFileSync(join(folder, 'config.json'), '{"architectures":');
    expect((await loadError()).message).toMatch(/config.json is not valid JSON/);
    rmSync(join(folder, 'config.json'));
    expect((await loadError()).message).toMatch(/config.json is missing/);
  });

  test('weights: missing file, truncated file, wrong shape, missing tensor, integer dtype', async () => {
    const path = join(folder, 'model.safetensors');
    const whole = readFileSync(path);
    writeFileSync(path, whole.subarray(0, whole.length - 10));
    expect((await loadError()).name).toBe('SafetensorsError');
    writeFileSync(path, whole);
    editHeader((header) => header['model.norm.weight'].shape.unshift(1));
    expect((await loadError()).message).toMatch(/model.norm.weight/);
    writeFileSync(path, whole);
    editHeader((header) => {
      header['model.other.weight'] = header['model.norm.weight'];
      delete header['model.norm.weight'];
    });
    expect((await loadError()).message).toMatch(/no tensor 'model.norm.weight'/);
    writeFileSync(path, whole);
    editHeader((header) => {
      header['model.norm.weight'].dtype = 'I16';
    });
    expect((await loadError()).message).toMatch(/I16/);
    rmSync(path);
    expect((await loadError()).message).toMatch(/safetensors/);
  });

  test('no such folder, and no such thing', async () => {
    await expect(LLM.load('/no/such/folder')).rejects.toThrow(/'\/no\/such\/folder' is neither a folder nor a hub id/);
    await expect(LLM.load('')).rejects.toThrow(/neither a folder nor a hub id/);
  });

  test('text prompts without a tokenizer', async () => {
    const llm = await LLM.load(folder, { maxModelLen: 64 });
    await expect(llm.generate('hello')).rejects.toThrow(/no tokenizer.json/);
    await expect(llm.generate([[1]], { stop: 'x' })).rejects.toThrow(/Stop strings need a tokenizer/);
    await llm.close();
  });
});

describe('settings that cannot work are refused with the reason', () => {
  test.each<[ConfigOptions, RegExp]>([
    [{ backend: 'tpu' as 'cpu' }, /backend must be one of 'auto', 'reference', 'cpu', 'cuda', got "tpu"/],
    [{ dtype: 'int8' as 'auto' }, /dtype must be one of/],
    [{ maxModelLen: 0 }, /maxModelLen must be a whole number of at least 1, got 0/],
    [{ maxModelLen: 513 }, /maxModelLen 513 is beyond the 512 positions/],
    [{ maxNumSeqs: 1.5 }, /maxNumSeqs .* got 1.5/],
    [{ maxNumSeqs: 64, maxNumBatchedTokens: 32 }, /maxNumSeqs 64 exceeds maxNumBatchedTokens 32/],
    [{ kvCacheBlockSize: 0 }, /kvCacheBlockSize .* got 0/],
    [{ numKvCacheBlocks: 4, kvCacheBlockSize: 16, maxModelLen: 65 }, /4 × kvCacheBlockSize 16 = 64 tokens/],
    [{ tensorParallelSize: 0 }, /tensorParallelSize .* got 0/],
    [{ seed: -1 }, /seed/],
    [{ loadFormat: 'gguf' as 'auto' }, /loadFormat must be one of/],
    [{ maxModelLength: 5 } as ConfigOptions, /Unknown option 'maxModelLength'/],
  ])('%j', async (options, message) => {
    const error = await loadError(options);
    expect(error.message).toMatch(message);
    expect(error.name).toMatch(/ConfigError|BackendError/);
  });

  test('a few blocks limit the default maxModelLen instead of failing', async () => {
    const llm = await LLM.load(folder, { numKvCacheBlocks: 4, kvCacheBlockSize: 16 });
    expect(llm.stats().maxModelLen).toBe(64);
    await llm.close();
  });

  test('a Config that exists is valid and complete', () => {
    expect(new Config()).toMatchObject({ backend: 'auto', attnBackend: 'flash', enablePrefixCaching: true, seed: 0 });
  });
});
