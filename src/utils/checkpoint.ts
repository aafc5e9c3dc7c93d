import type { Shard } from '#nano/distributed/shards';
import { ModelError } from '#nano/errors';
import type { ModelFiles } from '#nano/platform/files';
import { DTYPE_BYTES, type FloatDType } from '#nano/tensor/dtype';
import { isJsonObject, parseJsonObject } from '#nano/utils/json';
import { openSafetensors, type SafetensorsReader, type TensorInfo } from '#nano/utils/safetensors';

const SINGLE_FILE = 'model.safetensors';
const INDEX_FILE = 'model.safetensors.index.json';

/** The most a tensor takes in JavaScript memory at once. */
export const STAGING_BYTES = 8 * 2 ** 20;

const FLOAT_DTYPES: Readonly<Record<string, FloatDType>> = { F32: 'float32', BF16: 'bfloat16', F16: 'float16' };

/**
 * Some rows of a tensor. `bytes` starts at row `firstRow` of the tensor, holds whole rows in the
 * checkpoint's dtype, and is overwritten after the call: copy what must last.
 */
export type ConsumeRows = (firstRow: number, bytes: Uint8Array, dtype: FloatDType) => void;

/** Which part of a tensor to read: all of it unless told otherwise. A rank of a parallel model reads its shard. */
export interface RowRange {
  firstRow?: number;
  rows?: number;
  /** Of a matrix: these columns of each row. */
  columns?: Shard;
}

/** The weights of a model, over however many files they are spread. */
export class Checkpoint {
  private staging: Uint8Array | undefined;

  constructor(
    /** For messages: the folder or hub id. */
    readonly name: string,
    private readonly readers: readonly SafetensorsReader[],
    private readonly readerOf: ReadonlyMap<string, SafetensorsReader>,
  ) {}

  /** All tensors of all files, by name. */
  get tensorNames(): string[] {
    return [...this.readerOf.keys()];
  }

  has(tensor: string): boolean {
    return this.readerOf.has(tensor);
  }

  /** @throws ModelError when there is no such tensor. */
  info(tensor: string): TensorInfo {
    const info = this.readerOf.get(tensor)?.tensors.get(tensor);
    if (info !== undefined) return info;
    throw new ModelError(
      `${this.name} has no tensor '${tensor}' among its ${this.readerOf.size}. ` +
        'Does its config.json belong to these weights?',
    );
  }

  /**
   * Reads rows, a row being everything under one index of the first dimension, or some columns of them, and hands
   * them on in order, in chunks of at most STAGING_BYTES (or one row, where a row is larger).
   *
   * Why not read a tensor at once: it would lie in memory twice, here and where it is going, and
   * the largest (the embedding of Qwen3-8B) has over a gigabyte.
   *
   * @param expectedShape of the whole tensor, whatever rows are read.
   * @throws ModelError naming the tensor, what was expected and what was found.
   */
  async streamRows(
    tensor: string,
    expectedShape: readonly number[],
    { firstRow = 0, rows, columns }: RowRange,
    consume: ConsumeRows,
  ): Promise<void> {
    const { dtype: stored, shape } = this.info(tensor);
    const dtype = FLOAT_DTYPES[stored];
    if (dtype === undefined) {
      throw new ModelError(
        `'${tensor}' in ${this.name} is stored as ${stored}; F32, BF16 and F16 are supported. ` +
          'Quantised checkpoints are not: take the bf16 original.',
      );
    }
    if (shape.length !== expectedShape.length || shape.some((dim, i) => dim !== expectedShape[i])) {
      throw new ModelError(
        `'${tensor}' in ${this.name}: expected shape [${expectedShape.join(', ')}], got [${shape.join(', ')}]. ` +
          'Does its config.json belong to these weights?',
      );
    }
    const allRows = shape[0] ?? 1; // a scalar is one row
    const lastRow = firstRow + (rows ?? allRows - firstRow);
    if (!(Number.isInteger(firstRow) && Number.isInteger(lastRow) && 0 <= firstRow && lastRow >= firstRow)) {
      throw new ModelError(`'${tensor}': firstRow ${firstRow} and rows ${rows} must be whole numbers of at least 0.`);
    }
    if (lastRow > allRows) {
      throw new ModelError(`'${tensor}' in ${this.name} has ${allRows} rows; asked for ${firstRow} to ${lastRow}.`);
    }
    const width = shape.slice(1).reduce((product, dim) => product * dim, 1);
    const { first, count } = columns ?? { first: 0, count: width };
    if (!(Number.isInteger(first) && Number.isInteger(count) && 0 <= first && 0 <= count && first + count <= width)) {
      throw new ModelError(`'${tensor}' has ${width} columns; asked for ${count} from column ${first} on.`);
    }
    const bytes = DTYPE_BYTES[dtype];
    const part = { rowBytes: width * bytes, skip: first * bytes, take: count * bytes };
    if (part.take > 0) await this.stream(tensor, firstRow, lastRow, part, (at, chunk) => consume(at, chunk, dtype));
  }

  /** Of each row of `rowBytes`, the `take` bytes behind the first `skip`. */
  private async stream(
    tensor: string,
    firstRow: number,
    lastRow: number,
    { rowBytes, skip, take }: { rowBytes: number; skip: number; take: number },
    consume: (firstRow: number, bytes: Uint8Array) => void,
  ): Promise<void> {
    const rowsPerChunk = Math.min(lastRow - firstRow, Math.max(1, Math.floor(STAGING_BYTES / take)));
    const staging = this.takeStaging(rowsPerChunk * take);
    const read = (byte: number, into: Uint8Array) => this.readerOf.get(tensor)?.readRange(tensor, byte, into);
    try {
      for (let row = firstRow; row < lastRow; row += rowsPerChunk) {
        const rows = Math.min(rowsPerChunk, lastRow - row);
        const chunk = staging.subarray(0, rows * take);
        if (take === rowBytes) await read(row * rowBytes, chunk);
        else {
          const pieces = Array.from({ length: rows }, (_, i) => chunk.subarray(i * take, (i + 1) * take));
          await Promise.all(pieces.map((piece, i) => read((row + i) * rowBytes + skip, piece)));
        }
        consume(row, chunk);
      }
    } finally {
      this.staging = staging;
    }
  }

  /** The one buffer, or a second where two tensors are streamed at the same time. */
  private takeStaging(bytes: number): Uint8Array {
    const staging = this.staging;
    this.staging = undefined;
    return staging !== undefined && staging.byteLength >= bytes ? staging : new Uint8Array(bytes);
  }

  /** Closes the files. */
  async close(): Promise<void> {
    this.staging = undefined;
    await Promise.all(this.readers.map((reader) => reader.close()));
  }
}

/**
 * Opens `model.safetensors`, or all files that `model.safetensors.index.json` lists.
 * @throws ModelError when neither exists, the index does not fit the files, or a file is damaged.
 */
export async function openCheckpoint(files: ModelFiles): Promise<Checkpoint> {
  const weightMap = (await files.has(SINGLE_FILE)) ? undefined : await readIndex(files);
  const shards = weightMap === undefined ? [SINGLE_FILE] : [...new Set(weightMap.values())];
  const readers = new Map<string, SafetensorsReader>();
  try {
    for (const shard of shards) readers.set(shard, await openShard(files, shard));
    return new Checkpoint(files.name, [...readers.values()], mapTensors(files.name, readers, weightMap));
  } catch (error) {
    await Promise.all([...readers.values()].map((reader) => reader.close()));
    throw error;
  }
}

async function openShard(files: ModelFiles, shard: string): Promise<SafetensorsReader> {
  const file = await files.open(shard);
  try {
    return await openSafetensors(file, `${shard} in ${files.name}`);
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** The index's `weight_map`: from tensor to the file that holds it. */
async function readIndex(files: ModelFiles): Promise<Map<string, string>> {
  if (!(await files.has(INDEX_FILE))) {
    const pickled = (await files.has('pytorch_model.bin')) || (await files.has('pytorch_model.bin.index.json'));
    const hint = pickled
      ? 'It has PyTorch .bin files, which can run code when loaded: convert them to safetensors.'
      : 'Is it the folder of a model?';
    throw new ModelError(`${files.name} has neither ${SINGLE_FILE} nor ${INDEX_FILE}. ${hint}`);
  }
  const label = `${INDEX_FILE} in ${files.name}`;
  const { weight_map: weightMap } = parseJsonObject(await files.readText(INDEX_FILE), label);
  if (!isJsonObject(weightMap)) throw new ModelError(`${label} must have a weight_map from tensors to files.`);
  return new Map(
    Object.entries(weightMap).map(([tensor, file]) => {
      // A plain name only: an index must not be able to point anywhere outside the model's folder.
      if (typeof file !== 'string' || !/^[^/\\:]+\.safetensors$/.test(file)) {
        throw new ModelError(
          `${label} puts '${tensor}' into ${JSON.stringify(file)}; it must be a .safetensors file beside the index.`,
        );
      }
      return [tensor, file];
    }),
  );
}

function mapTensors(
  name: string,
  readers: ReadonlyMap<string, SafetensorsReader>,
  weightMap: ReadonlyMap<string, string> | undefined,
): Map<string, SafetensorsReader> {
  const readerOf = new Map<string, SafetensorsReader>();
  if (weightMap === undefined) {
    for (const reader of readers.values()) for (const tensor of reader.tensors.keys()) readerOf.set(tensor, reader);
    return readerOf;
  }
  for (const [tensor, shard] of weightMap) {
    const reader = readers.get(shard);
    if (!reader?.tensors.has(tensor)) {
      throw new ModelError(`${INDEX_FILE} in ${name} lists '${tensor}' in ${shard}, but that file does not hold it.`);
    }
    readerOf.set(tensor, reader);
  }
  return readerOf;
}
