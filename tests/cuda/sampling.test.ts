// Drawing tokens on the GPU: the reference's tokens, one for one, and the distribution they are drawn from.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type CudaBackend, createCudaBackend } from '#nano/backends/cuda';
import { HAS_CUDA } from '../helpers/backends';
import { RandomInputs } from '../helpers/random';
import { bestTwo, type Draw, differsFromDefinition, draw, FILTERS, NO_FILTERS } from '../helpers/sampling';

/** Scores nearer than this may be ordered either way: the GPU computes noise and quotients in float32. */
const TIE = 1e-4;

/** Qwen3's vocabulary, sizes around a power of two and of a warp, and the smallest there is. */
const LARGE = 151_936;
const SMALL = [1, 2, 31, 32, 33, 61, 255, 1000, 4097];

const PARAMETERS: readonly Partial<Draw>[] = [
  { temperature: 0 },
  {},
  { temperature: 0.3 },
  { temperature: 1.7 },
  { topK: 1 },
  { topK: 20 },
  { topK: 1000 },
  { topK: 2 ** 30 },
  { topP: 0.95 },
  { topP: 0.5 },
  { topP: 0.01 },
  { minP: 0.05 },
  { minP: 1 },
  { temperature: 0.6, topK: 20, topP: 0.95 }, // what Qwen3's generation_config.json asks for
  { temperature: 0.7, topK: 50, topP: 0.8, minP: 0.02 },
  { temperature: 2, topP: 0.9, minP: 0.3 },
];

describe.skipIf(!HAS_CUDA)('sampling on cuda', () => {
  const random = new RandomInputs('cuda sampling');
  let backend: CudaBackend;
  const seen = { drawn: 0, nearTies: 0, otherOfTwo: 0 };
  beforeAll(() => {
    backend = createCudaBackend();
  });
  afterAll(() => {
    console.log('draws compared with the reference:', seen);
    backend.close();
  });

  /** Logits of a kind: spread out, as a language model's (few likely tokens), or with many equal ones. */
  const KINDS = {
    normal: (vocab: number) => random.normals(vocab, 'float32', 2),
    peaked: (vocab: number) => random.normals(vocab, 'float32', 2).map((x) => (random.below(500) === 0 ? 12 + x : x)),
    ties: (vocab: number) => random.normals(vocab, 'float32', 3).map((x) => Math.round(2 * x) / 2),
    equal: (vocab: number) => new Float32Array(vocab).fill(-1.25),
  };

  /** Rows that were drawn otherwise than the reference draws. */
  async function differences(rows: readonly Float32Array[], draws: readonly Draw[]): Promise<string[]> {
    const tokens = await draw(backend, rows, draws);
    return draws.flatMap((d, b) => {
      const { first, second, gap } = bestTwo(rows[b], d);
      seen.drawn++;
      // Equal logits are no near tie where nothing is added to them: the lower id it is.
      const near = d.temperature > 0 && gap < TIE;
      if (near) seen.nearTies++;
      if (tokens[b] === first) return [];
      seen.otherOfTwo++;
      if (near && tokens[b] === second) return [];
      return [
        `row ${b} of ${rows[b].length}: ${tokens[b]} instead of ${first} (next ${second}, gap ${gap}): ${JSON.stringify(d)}`,
      ];
    });
  }

  const someDraw = (params: Partial<Draw>): Draw => ({
    ...NO_FILTERS,
    ...params,
    seed: random.below(2 ** 31),
    position: random.below(5000),
  });

  test.each(Object.keys(KINDS) as (keyof typeof KINDS)[])('small vocabularies, %s logits', async (kind) => {
    const problems: string[] = [];
    for (const vocab of SMALL) {
      // Every kind of parameters in one batch, several times over.
      const draws = Array.from({ length: 4 }, () => PARAMETERS.map(someDraw)).flat();
      problems.push(
        ...(await differences(
          draws.map(() => KINDS[kind](vocab)),
          draws,
        )),
      );
    }
    expect(problems).toEqual([]);
  });

  test.each(Object.keys(KINDS) as (keyof typeof KINDS)[])(
    `${LARGE} tokens, %s logits`,
    { timeout: 120_000 },
    async (kind) => {
      const draws = PARAMETERS.map(someDraw);
      expect(
        await differences(
          draws.map(() => KINDS[kind](LARGE)),
          draws,
        ),
      ).toEqual([]);
    },
  );

  test('a draw depends on its own row only, in batches of all sizes', async () => {
    const vocab = 2048;
    const row = KINDS.peaked(vocab);
    const draws = Array.from({ length: 130 }, (_, i) => someDraw(PARAMETERS[i % PARAMETERS.length]));
    const whole = await draw(
      backend,
      draws.map(() => row),
      draws,
    );
    for (const [first, count] of [
      [0, 1],
      [1, 2],
      [5, 3],
      [16, 8],
      [40, 33],
      [0, 129],
    ]) {
      const part = draws.slice(first, first + count);
      expect(
        await draw(
          backend,
          part.map(() => row),
          part,
        ),
      ).toEqual(whole.slice(first, first + count));
    }
  });

  test('temperature 0 takes the lowest id among equals, wherever they are', async () => {
    for (const vocab of [33, 4097, LARGE]) {
      const rows = Array.from({ length: 12 }, () => {
        const row = random.normals(vocab, 'float32');
        for (let i = 0; i < 3; i++) row[random.below(vocab)] = 9;
        return row;
      });
      const greedy = rows.map(() => someDraw({ temperature: 0, topK: 3, topP: 0.1, minP: 0.9 }));
      expect(await draw(backend, rows, greedy)).toEqual(rows.map((row) => row.indexOf(9)));
    }
  });

  test.each(FILTERS)('%s follows its definition', async (_, options) => {
    expect(await differsFromDefinition(backend, options)).toBeNull();
  });

  test('seeds have 64 bits', async () => {
    const row = KINDS.normal(1000);
    const draws = Array.from({ length: 40 }, (_, i) => ({
      ...someDraw({}),
      seed: 0xffffffff - i,
      seedHigh: 0x80000000 + i,
    }));
    expect(await differences(Array(40).fill(row), draws)).toEqual([]);
    const low = draws.map((d) => ({ ...d, seedHigh: 0 }));
    expect(await draw(backend, Array(40).fill(row), draws)).not.toEqual(await draw(backend, Array(40).fill(row), low));
  });
});
