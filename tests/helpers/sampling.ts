import { filterTokens } from '#nano/backends/reference/sample';
import type { Backend } from '#nano/tensor/kernels';
import { Ops } from '#nano/tensor/ops';
import { gumbelNoise } from '#nano/utils/philox';

/** The sampling parameters of one row. */
export interface Draw {
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  seed: number;
  /** Default 0. */
  seedHigh?: number;
  position: number;
}

export const NO_FILTERS = { temperature: 1, topK: 0, topP: 1, minP: 0 } as const;

/** Draws one token per entry, each from its own row of logits. */
export async function draw(backend: Backend, rows: readonly Float32Array[], draws: readonly Draw[]): Promise<number[]> {
  const ops = new Ops(backend, backend.dtypes[0]);
  const vocab = rows[0].length;
  const logits = new Float32Array(rows.length * vocab);
  rows.forEach((row, b) => logits.set(row, b * vocab));
  const run = () => {
    const floats = (value: (d: Draw) => number) => ops.fromHost(Float32Array.from(draws, value));
    const ints = (value: (d: Draw) => number) => ops.fromHost(Int32Array.from(draws, value));
    const seed = ops.fromHost(Int32Array.from(draws.flatMap((d) => [d.seed | 0, (d.seedHigh ?? 0) | 0])), [
      draws.length,
      2,
    ]);
    return ops.sample(ops.fromHost(logits, [rows.length, vocab]), {
      temperature: floats((d) => d.temperature),
      topK: ints((d) => d.topK),
      topP: floats((d) => d.topP),
      minP: floats((d) => d.minP),
      seed,
      position: ints((d) => d.position),
    });
  };
  ops.reserveFor(run);
  const tokens = [...((await ops.scope(() => backend.read(run()))) as Int32Array)];
  ops.reserveFor(() => {}); // gives the arena back
  return tokens;
}

/**
 * The two candidates with the best scores (logit / temperature + noise; greedy: logit), the lower id first among equals, and
 * how far apart they are: what the reference backend chooses between.
 */
export function bestTwo(logits: Float32Array, d: Draw): { first: number; second: number; gap: number } {
  const [temperature, topP, minP] = [d.temperature, d.topP, d.minP].map(Math.fround);
  const greedy = temperature === 0;
  const kept = greedy ? Array.from(logits.keys()) : filterTokens(logits, temperature, d.topK, topP, minP);
  const score = (id: number) =>
    greedy ? logits[id] : logits[id] / temperature + gumbelNoise(d.seed, d.seedHigh ?? 0, d.position, id);
  let [first, second] = [kept[0], kept[0]];
  let [best, next] = [-Infinity, -Infinity];
  for (const id of kept) {
    const value = score(id);
    if (value > best) [first, best, second, next] = [id, value, first, best];
    else if (value > next) [second, next] = [id, value];
  }
  return { first, second, gap: best - next };
}

/**
 * Pearson's statistic of observed counts against probabilities. With n - 1 degrees of freedom its mean is n - 1 and its
 * variance 2(n - 1); five standard deviations above the mean happen by chance less than once in 10,000 runs of a file.
 */
export function chiSquaredTooLarge(
  counts: readonly number[],
  probabilities: readonly number[],
  total: number,
): boolean {
  let statistic = 0;
  let bins = 0;
  counts.forEach((count, i) => {
    const expected = probabilities[i] * total;
    if (expected === 0) {
      if (count > 0) statistic = Infinity;
      return;
    }
    statistic += (count - expected) ** 2 / expected;
    bins++;
  });
  return statistic > bins - 1 + 5 * Math.sqrt(2 * (bins - 1));
}

/** The definition, by sorting: which tokens may be drawn, and how likely each is. */
export function definition(
  probabilities: readonly number[],
  { topK, topP, minP }: Pick<Draw, 'topK' | 'topP' | 'minP'>,
): number[] {
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  let kept = order.filter((i) => probabilities[i] >= minP * probabilities[order[0]]);
  if (topK > 0) kept = kept.slice(0, topK);
  const mass = kept.reduce((sum, i) => sum + probabilities[i], 0);
  let [cumulative, nucleus] = [0, 0];
  while (cumulative < topP * mass - 1e-12 && nucleus < kept.length) cumulative += probabilities[kept[nucleus++]];
  kept = kept.slice(0, Math.max(1, nucleus));
  const total = kept.reduce((sum, i) => sum + probabilities[i], 0);
  return probabilities.map((p, i) => (kept.includes(i) ? p / total : 0));
}

export const PROBABILITIES = [0.02, 0.3, 0.08, 0.25, 0.05, 0.15, 0.1, 0.05];

/** What is checked against the definition. */
export const FILTERS: readonly [string, Partial<Draw>][] = [
  ['plain', {}],
  ['temperature 0.7', { temperature: 0.7 }],
  ['temperature 2', { temperature: 2 }],
  ['top-k 3', { topK: 3 }],
  // 0.3 + 0.25 = 0.55 < 0.6: the third token crosses and must be kept; dropping it, or keeping a fourth, fails.
  ['top-p 0.6, crossed by the third token', { topP: 0.6 }],
  ['top-p reached exactly', { topP: 0.3 + 1e-9 }],
  ['min-p 0.3', { minP: 0.3 }],
  ['all at once: min-p, then top-k, then top-p of what is left', { minP: 0.2, topK: 4, topP: 0.8 }],
];

/** Draws from {@link PROBABILITIES} many times; says how the counts differ from the definition, or null when they do not. */
export async function differsFromDefinition(backend: Backend, options: Partial<Draw>): Promise<string | null> {
  const total = 40_000;
  const params = { ...NO_FILTERS, ...options };
  const logits = Float32Array.from(PROBABILITIES, (p) => Math.log(p));
  const draws = Array.from({ length: total }, (_, i) => ({ ...params, seed: i * 7919, position: i % 5 }));
  const tokens = await draw(backend, Array(total).fill(logits), draws);
  const scaled = PROBABILITIES.map((p) => p ** (1 / params.temperature));
  const sum = scaled.reduce((a, b) => a + b, 0);
  const expected = definition(
    scaled.map((p) => p / sum),
    params,
  );
  const counts = PROBABILITIES.map((_, id) => tokens.filter((token) => token === id).length);
  return chiSquaredTooLarge(counts, expected, total) ? `${counts} of ${total}, expected ${expected}` : null;
}
