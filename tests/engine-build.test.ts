// From a model's files to an engine: dtypes, sizes of the cache, defaults, and rank 0's part on several ranks.
import { describe, expect, test } from 'vitest';
import { ReferenceBackend } from '#nano/backends/reference/index';
import { Config, type ConfigOptions } from '#nano/config';
import type { ToFollower } from '#nano/distributed/messages';
import { ALONE } from '#nano/distributed/process-group';
import type { Ranks } from '#nano/distributed/ranks';
import { type BuiltEngine, buildEngine } from '#nano/engine/build-engine';
import { ConfigError, ModelError } from '#nano/errors';
import { localShape } from '#nano/layers/parameter';
import { parseModelConfig } from '#nano/models/model-config';
import { buildModel } from '#nano/models/registry';
import type { FloatDType } from '#nano/tensor/dtype';
import type { Backend } from '#nano/tensor/kernels';
import { Ops } from '#nano/tensor/ops';
import { fakeDevice } from './helpers/fake-device';
import { MemoryFiles, safetensorsFile } from './helpers/memory-files';
import { TINY_CONFIG } from './helpers/tiny-model';
import { sentencePieceTokenizer } from './helpers/tokenizers';

/** A block of 4 tokens: keys and values of 2 layers and 2 heads of 8 numbers, float32. */
const BLOCK_BYTES = 2 * 2 * 4 * 2 * 8 * 4;

/** All parameters of the tiny model, in the order they are loaded. */
function parameters() {
  const ops = new Ops(new ReferenceBackend(), 'float32');
  const config = parseModelConfig(JSON.stringify(TINY_CONFIG), 'tiny');
  return buildModel(ops, config, { dtype: 'float32', attnBackend: 'flash', maxModelLen: 64 }).parameters();
}

const elementsOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/** Its weights, all of them 1; without one if told so. */
function checkpoint(omit = ''): Uint8Array {
  const header: Record<string, object> = {};
  let end = 0;
  for (const { name, shape } of parameters().filter((parameter) => parameter.name !== omit)) {
    const begin = end;
    end += 4 * elementsOf(shape);
    header[name] = { dtype: 'F32', shape, data_offsets: [begin, end] };
  }
  return safetensorsFile(header, new Uint8Array(Float32Array.from({ length: end / 4 }, () => 1).buffer));
}
const WHOLE = checkpoint();

interface Setup extends Omit<ConfigOptions, 'backend'> {
  files?: Record<string, string | Uint8Array>;
  model?: object;
  backend?: Backend;
  budget?: number;
  ranks?: Ranks;
}

async function build({
  files = {},
  model = {},
  backend = new ReferenceBackend(),
  budget = 40 * BLOCK_BYTES,
  ranks,
  ...options
}: Setup = {}) {
  const progress: string[] = [];
  const memory = new MemoryFiles({
    'config.json': JSON.stringify({ ...TINY_CONFIG, ...model }),
    'model.safetensors': WHOLE,
    ...files,
  });
  const config = new Config({ kvCacheBlockSize: 4, maxNumSeqs: 2, ...options });
  const built = await buildEngine(
    memory,
    config,
    backend,
    () => budget,
    (line) => progress.push(line),
    ranks,
  );
  return { ...built, backend, progress, memory };
}

describe('the dtype', () => {
  /** Like a GPU, which has no float32 model. */
  const sixteenBits = (): Backend =>
    Object.defineProperties(Object.create(new ReferenceBackend()), {
      dtypes: { value: ['bfloat16', 'float16'] },
    }) as Backend;

  test.each<[string, FloatDType, Setup]>([
    ["is the checkpoint's, where the backend has it", 'float16', { model: { dtype: 'float16' } }],
    ["is the backend's first, where it has not", 'bfloat16', { backend: sixteenBits() }],
    [
      "is the checkpoint's also if it is not the first",
      'float16',
      { backend: sixteenBits(), model: { dtype: 'float16' } },
    ],
    ['is the one that was asked for', 'bfloat16', { dtype: 'bfloat16' }],
  ])('%s', async (_, expected, setup) => {
    expect((await build(setup)).dtype).toBe(expected);
  });

  test('that the backend does not have is refused with those it has', async () => {
    const building = build({ backend: sixteenBits(), dtype: 'float32' });
    await expect(building).rejects.toThrow(ConfigError);
    await expect(building).rejects.toThrow(
      "dtype 'float32' is not for the backend 'reference', which computes in bfloat16 or float16. " +
        "Choose one of them, 'auto', or another backend.",
    );
  });
});

describe('the weights', () => {
  test('come from the checkpoint, one after the other, and its files are closed', async () => {
    const { progress, memory } = await build();
    const total = parameters().length;
    expect(progress).toEqual(Array.from({ length: total }, (_, i) => `Loading weights: ${i + 1} of ${total}`));
    expect([memory.largestRead > 0, memory.openFiles]).toEqual([true, 0]);
  });

  test('a checkpoint that fails is closed as well', async () => {
    const files = { 'model.safetensors': checkpoint('model.norm.weight') };
    const memory = new MemoryFiles({ 'config.json': JSON.stringify(TINY_CONFIG), ...files });
    const config = new Config({ maxModelLen: 16 });
    await expect(
      buildEngine(
        memory,
        config,
        new ReferenceBackend(),
        () => 1e6,
        () => {},
      ),
    ).rejects.toThrow(ModelError);
    expect(memory.openFiles).toBe(0);
  });

  test('dummy ones need no file, and report nothing', async () => {
    const { progress, memory, backend } = await build({ loadFormat: 'dummy' });
    expect([progress, memory.largestRead]).toEqual([[], 0]);
    expect(backend.allocatedBytes).toBe((await build()).backend.allocatedBytes);
  });

  test.each<[FloatDType, number]>([
    ['float32', 4],
    ['bfloat16', 2],
  ])('of %s take %i bytes a number in matrices, and 4 in norms', async (dtype, bytes) => {
    const expected = parameters().reduce(
      (sum, parameter) => sum + elementsOf(localShape(parameter)) * (parameter.shape.length === 1 ? 4 : bytes),
      0,
    );
    expect((await build({ dtype })).weightBytes).toBe(expected);
  });

  test('and the rotary table are what a rank holds beside its cache', async () => {
    const backend = new ReferenceBackend();
    backend.allocate([100], 'float32'); // what was there before is not the model's
    const { ranks, engine } = await build({ backend, maxModelLen: 32 });
    const numbers = parameters().reduce((sum, { shape }) => sum + elementsOf(shape), 0);
    const rotaryTable = 32 * TINY_CONFIG.head_dim;
    expect(ranks).toEqual([
      {
        modelBytes: 4 * (numbers + rotaryTable),
        kvCacheBytes: engine.options.numKvCacheBlocks * BLOCK_BYTES,
        allocatedBytes: backend.allocatedBytes,
      },
    ]);
  });
});

test('a config.json that cannot be served is refused by its place', async () => {
  await expect(build({ model: { hidden_act: 'gelu' } })).rejects.toThrow('memory/config.json: hidden_act "gelu"');
});

describe('the longest request', () => {
  const maxModelLen = async (setup: Setup) => (await build(setup)).engine.options.maxModelLen;

  test('is what the model was made for, but no more than 4096 unless it is asked for', async () => {
    expect(await maxModelLen({ budget: 1e9 })).toBe(512);
    const large = { max_position_embeddings: 5000 };
    expect(await maxModelLen({ model: large, budget: 1e9 })).toBe(4096);
    expect(await maxModelLen({ model: large, budget: 1e9, maxModelLen: 5000 })).toBe(5000);
  });

  test('is as long as the memory allows when it is not given', async () => {
    expect(await maxModelLen({ budget: 7 * BLOCK_BYTES + 1 })).toBe(28);
  });

  test('beyond what the model was made for is refused', async () => {
    await expect(build({ maxModelLen: 513 })).rejects.toThrow(
      'maxModelLen 513 is beyond the 512 positions the model was made for (max_position_embeddings). ' +
        'Lower it to at most 512.',
    );
    expect(await maxModelLen({ maxModelLen: 512, budget: 1e9 })).toBe(512);
  });

  test('beyond what fits is refused with what is needed and what there is', async () => {
    const building = build({ maxModelLen: 29, budget: 7 * BLOCK_BYTES });
    await expect(building).rejects.toThrow(ConfigError);
    await expect(building).rejects.toThrow(
      'A request of maxModelLen 29 tokens needs 8 KV-cache blocks of 4 tokens, and 7 fit. ' +
        'Lower maxModelLen, free memory, or set numKvCacheBlocks.',
    );
    expect(await maxModelLen({ maxModelLen: 28, budget: 7 * BLOCK_BYTES })).toBe(28);
  });

  test('cannot be none: not even one block fits', async () => {
    await expect(build({ budget: BLOCK_BYTES - 1 })).rejects.toThrow(
      'needs 128 KV-cache blocks of 4 tokens, and 0 fit',
    );
  });
});

describe('the KV cache', () => {
  const blocks = async (setup: Setup) => (await build(setup)).engine.options.numKvCacheBlocks;

  test('has as many blocks as fit', async () => {
    expect(await blocks({ budget: 20 * BLOCK_BYTES - 1, maxModelLen: 64 })).toBe(19);
    expect(await blocks({ budget: 20 * BLOCK_BYTES, maxModelLen: 64, dtype: 'bfloat16' })).toBe(32); // half the bytes: 40
  });

  test('has no more than maxNumSeqs requests of full length can use', async () => {
    expect(await blocks({ budget: 1e9, maxModelLen: 30, maxNumSeqs: 3 })).toBe(3 * 8);
  });

  test('has the blocks that were asked for, whatever the memory', async () => {
    expect(await blocks({ budget: 0, numKvCacheBlocks: 100, maxModelLen: 16 })).toBe(100);
  });
});

describe('the engine', () => {
  test('gets the settings as they were given', async () => {
    const options = { maxNumSeqs: 3, maxNumBatchedTokens: 77, kvCacheBlockSize: 4, maxModelLen: 16 };
    const { engine } = await build({ ...options, enablePrefixCaching: false });
    expect(engine.options).toMatchObject({
      ...options,
      enablePrefixCaching: false,
      vocabSize: 61,
      tokenizer: undefined,
    });
  });

  test('runs ahead where the backend is asynchronous, and only there', async () => {
    const options = { maxModelLen: 16, enforceEager: true };
    expect((await build(options)).engine.options.runAhead).toBe(false);
    const device = fakeDevice(new ReferenceBackend());
    expect((await build({ ...options, backend: device })).engine.options.runAhead).toBe(true);
  });

  test("ends at the model's and the generation config's end tokens, each once", async () => {
    const ends = async (eos: unknown, generation?: unknown) =>
      (
        await build({
          model: { eos_token_id: eos },
          files:
            generation === undefined ? {} : { 'generation_config.json': JSON.stringify({ eos_token_id: generation }) },
        })
      ).engine.options.eosTokenIds;
    expect(await ends(5)).toEqual([5]);
    expect(await ends(5, [5, 7])).toEqual([5, 7]);
    expect(await ends(undefined, 9)).toEqual([9]);
    expect(await ends(undefined)).toEqual([]);
  });

  test('has a tokenizer where there is one', async () => {
    const { tokenizer, engine } = await build({ files: { 'tokenizer.json': sentencePieceTokenizer.json } });
    expect(tokenizer?.encode('ab c')).toEqual(sentencePieceTokenizer().encode('ab c'));
    expect(engine.options.tokenizer).toBe(tokenizer);
    expect((await build()).tokenizer).toBeUndefined();
  });
});

describe('sampling defaults', () => {
  const defaults = async (generation: object) =>
    (await build({ files: { 'generation_config.json': JSON.stringify(generation) } })).defaults;

  test('are those of generation_config.json, in our names', async () => {
    const all = { temperature: 0.6, top_k: 20, top_p: 0.95, min_p: 0.1, do_sample: true, repetition_penalty: 1.1 };
    expect(await defaults(all)).toEqual({ temperature: 0.6, topK: 20, topP: 0.95, minP: 0.1 });
    expect(await defaults({ top_k: 20 })).toEqual({ topK: 20 });
    expect(Object.keys(await defaults({ top_k: 20, temperature: 'warm' }))).toEqual(['topK']);
  });

  test('are greedy where it says that nothing is drawn', async () => {
    expect(await defaults({ do_sample: false, temperature: 0.6, top_k: 20 })).toEqual({ temperature: 0 });
  });

  test('are none without the file, and a broken file is refused by its name', async () => {
    expect((await build()).defaults).toEqual({});
    await expect(build({ files: { 'generation_config.json': '{' } })).rejects.toThrow(
      'generation_config.json is not valid JSON',
    );
  });
});

describe('on several ranks', () => {
  const MEMORY = { modelBytes: 1, kvCacheBytes: 2, allocatedBytes: 3 };

  async function rank0(affordable: number[], setup: Setup = {}) {
    const sent: (ToFollower | string)[] = [];
    const followers = {
      send: (message: ToFollower) => void sent.push(message),
      replies: async (kind: string) => {
        sent.push(`wait for ${kind}`);
        return affordable.map((affordableBlocks) => ({ kind, affordableBlocks, memory: MEMORY }));
      },
      orFail: <T>(work: Promise<T>) => work,
    };
    const ranks = { group: ALONE, followers: followers as unknown as Ranks['followers'], model: 'the/model' };
    return { sent, built: await build({ maxModelLen: 16, budget: 7 * BLOCK_BYTES, ...setup, ranks }) };
  }

  test('all load, then all have the blocks that the rank with the least memory has room for', async () => {
    const { sent, built } = await rank0([9, 6]);
    expect(sent).toMatchObject([
      { kind: 'load', model: 'the/model', options: { backend: 'reference', maxModelLen: 16, kvCacheBlockSize: 4 } },
      'wait for loaded',
      { kind: 'allocate', numBlocks: 6 },
      'wait for ready',
    ]);
    expect(built.engine.options.numKvCacheBlocks).toBe(6);
    expect(built.ranks).toEqual([{ ...built.ranks[0], kvCacheBytes: 6 * BLOCK_BYTES }, MEMORY, MEMORY]);
    expect((await rank0([9, 8])).built.engine.options.numKvCacheBlocks).toBe(7); // this rank itself
  });

  test('each step goes to the others too', async () => {
    const { sent, built } = await rank0([9]);
    const { engine }: Pick<BuiltEngine, 'engine'> = built;
    engine.addRequest([1, 2, 3], { maxTokens: 2 });
    while (engine.hasUnfinishedRequests) await engine.step();
    expect(sent.slice(4)).toMatchObject([{ kind: 'step' }, { kind: 'step' }]);
  });
});
