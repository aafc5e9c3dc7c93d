import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseModelConfig } from '#nano/models/model-config';
import { buildModel, type CausalLM } from '#nano/models/registry';
import { FolderFiles } from '#nano/platform/node-files';
import { decodeFloats, type FloatDType } from '#nano/tensor/dtype';
import type { AttnBackend, Backend } from '#nano/tensor/kernels';
import { Ops } from '#nano/tensor/ops';
import { openCheckpoint } from '#nano/utils/checkpoint';
import { cumulativeLengths, padBlockTables, slotsFor } from '#nano/utils/context';
import { loadWeights } from '#nano/utils/loader';
import { openSafetensors } from '#nano/utils/safetensors';

const MODELS = fileURLToPath(new URL('../../models', import.meta.url));
const GOLDENS = fileURLToPath(new URL('../goldens', import.meta.url));

export interface GoldenPrompt {
  readonly tokenIds: readonly number[];
  /** Rows of the prompt whose logits were kept. */
  readonly rows: readonly number[];
  readonly logits: Float32Array;
  readonly greedy: readonly number[];
}

export interface Golden {
  readonly name: string;
  readonly folder: string;
  /** What the checkpoint's weights are stored in. */
  readonly dtype: FloatDType;
  /** Largest relative row error of transformers' own 16-bit runs, against its float32. */
  readonly transformersError: Readonly<Record<'bfloat16' | 'float16', number>>;
  readonly prompts: readonly GoldenPrompt[];
}

export const goldenNames = (): string[] =>
  readdirSync(GOLDENS, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name);

/** Reads a folder of tests/goldens; `make_goldens.py` beside it says how they were made. */
export async function readGolden(name: string): Promise<Golden> {
  const goldens = `${GOLDENS}/${name}`;
  // The bundled model lies where users find it; the random ones lie beside their goldens.
  const folder = existsSync(`${goldens}/config.json`) ? goldens : `${MODELS}/${name}`;
  const json = JSON.parse(readFileSync(`${goldens}/goldens.json`, 'utf8'));
  const file = await (await FolderFiles.open(goldens)).open('goldens.safetensors');
  const reader = await openSafetensors(file, 'goldens.safetensors');
  const prompts = await Promise.all(
    json.prompts.map(
      async (entry: { tokens: number[]; firstRow: number; rows: number; greedy: number[] }, i: number) => {
        const info = reader.tensors.get(`logits.${i}`);
        if (!info) throw new Error(`${name}: no logits.${i}`);
        const bytes = new Uint8Array(info.end - info.begin);
        await reader.readRange(`logits.${i}`, 0, bytes);
        const rows = Array.from({ length: entry.rows }, (_, r) => entry.firstRow + r);
        return { tokenIds: entry.tokens, rows, logits: decodeFloats('float32', bytes), greedy: entry.greedy };
      },
    ),
  );
  await file.close();
  const { dtype } = parseModelConfig(readFileSync(`${folder}/config.json`, 'utf8'), 'config.json');
  return { name, folder, dtype, transformersError: json.transformersError, prompts };
}

/** A model built bare, with room for one sequence in its cache, to look at logits of all positions. */
export async function loadBareModel(
  folder: string,
  backend: Backend,
  dtype: FloatDType,
  attnBackend: AttnBackend = 'flash',
) {
  const files = await FolderFiles.open(folder);
  const config = parseModelConfig(readFileSync(`${folder}/config.json`, 'utf8'), 'config.json');
  const ops = new Ops(backend, dtype);
  const model = buildModel(ops, config, { dtype, attnBackend, maxModelLen: 256 });
  const checkpoint = await openCheckpoint(files);
  await loadWeights(model, checkpoint, backend);
  await checkpoint.close();
  const blockSize = 8;
  const shape = [32, blockSize, config.numKeyValueHeads, config.headDim];
  const allocate = () => backend.allocate(shape, dtype);
  model.bindCaches(Array.from({ length: config.numHiddenLayers }, () => ({ k: allocate(), v: allocate() })));
  return { model, ops, blockSize, config };
}

/** Logits `[rows, V]` of one prompt's positions, computed as a single prefill. */
export async function promptLogits(
  { model, ops, blockSize }: { model: CausalLM; ops: Ops; blockSize: number },
  tokenIds: readonly number[],
  rows: readonly number[],
): Promise<Float32Array> {
  // Blocks in an order that is not the identity, so that a mix-up of logical and physical shows.
  const table = Array.from({ length: Math.ceil(tokenIds.length / blockSize) }, (_, i) => 31 - i);
  const { values, width } = padBlockTables([table]);
  const run = () => {
    const lengths = () => ops.fromHost(cumulativeLengths([tokenIds.length]));
    const hidden = model.forward(
      ops.fromHost(Int32Array.from(tokenIds)),
      ops.fromHost(Int32Array.from(tokenIds.keys())),
      {
        isPrefill: true,
        slotMapping: ops.fromHost(Int32Array.from(slotsFor(table, 0, tokenIds.length, blockSize))),
        blockTables: ops.fromHost(values, [1, width]),
        cuSeqlensQ: lengths(),
        cuSeqlensK: lengths(),
        maxSeqlenQ: tokenIds.length,
        maxSeqlenK: tokenIds.length,
      },
    );
    return model.computeLogits(ops.gatherRows(hidden, ops.fromHost(Int32Array.from(rows))));
  };
  ops.reserveFor(run);
  return (await ops.scope(() => ops.backend.read(run()))) as Float32Array;
}

/** The largest relative error of a row: max over rows of ‖actual − expected‖ / ‖expected‖. NaN counts as infinite. */
export function worstRowError(actual: ArrayLike<number>, expected: ArrayLike<number>, rowLength: number): number {
  let worst = 0;
  for (let start = 0; start < expected.length; start += rowLength) {
    let [difference, norm] = [0, 0];
    for (let i = start; i < start + rowLength; i++) {
      difference += (actual[i] - expected[i]) ** 2;
      norm += expected[i] ** 2;
    }
    const error = norm > 0 ? Math.sqrt(difference / norm) : Math.sqrt(difference);
    worst = Math.max(worst, Number.isNaN(error) ? Infinity : error);
  }
  return worst;
}
