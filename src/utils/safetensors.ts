import { SafetensorsError } from '#nano/errors';
import type { RandomAccessFile } from '#nano/platform/files';
import { findDuplicateKey, isJsonObject, type JsonObject, parseJsonObject } from '#nano/utils/json';

/*
 * The safetensors format, all of it:
 *
 *   8 bytes   N, the length of the header, a little-endian unsigned 64-bit integer
 *   N bytes   the header: JSON, {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, …}
 *   the rest  the tensors' elements, row by row, little-endian; data_offsets count from here
 *
 * A header comes from strangers. So nothing in it is believed before it is checked against the size
 * of the file: no length is allocated, and no offset read, that the file does not have.
 */

/** Where one tensor lies in its file. */
export interface TensorInfo {
  /** As in the file: 'BF16', 'F32', … */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** First byte, counted from the start of the file. */
  readonly begin: number;
  /** The byte after the last. */
  readonly end: number;
}

/** Bytes per element. */
// biome-ignore format: one line for each width
const ELEMENT_BYTES: Readonly<Record<string, number>> = {
  BOOL: 1, U8: 1, I8: 1, F8_E4M3: 1, F8_E5M2: 1, F8_E8M0: 1,
  U16: 2, I16: 2, F16: 2, BF16: 2,
  U32: 4, I32: 4, F32: 4,
  U64: 8, I64: 8, F64: 8, C64: 8,
};

/** The format's own limit. Headers of real models are far below 1 MB. */
export const MAX_HEADER_BYTES = 100_000_000;

/** One open safetensors file. */
export class SafetensorsReader {
  constructor(
    private readonly file: RandomAccessFile,
    readonly name: string,
    readonly tensors: ReadonlyMap<string, TensorInfo>,
    /** The optional `__metadata__` of the header, e.g. {format: 'pt'}. */
    readonly metadata: ReadonlyMap<string, string>,
  ) {}

  /**
   * Fills `into` with the bytes of a tensor from its byte `byteStart` on.
   * @throws SafetensorsError when there is no such tensor, or it has fewer bytes.
   */
  async readRange(tensor: string, byteStart: number, into: Uint8Array): Promise<void> {
    const info = this.tensors.get(tensor);
    if (info === undefined) throw new SafetensorsError(`${this.name} has no tensor '${tensor}'.`);
    const bytes = info.end - info.begin;
    if (byteStart < 0 || byteStart + into.byteLength > bytes) {
      throw new SafetensorsError(
        `${this.name}: '${tensor}' has ${bytes} bytes; asked for ${into.byteLength} from byte ${byteStart} on.`,
      );
    }
    await this.file.read(info.begin + byteStart, into);
  }

  close(): Promise<void> {
    return this.file.close();
  }
}

/**
 * Reads and checks the header of a safetensors file. Weights are read later, by readRange.
 * @param name for messages.
 * @throws SafetensorsError saying what is wrong with the file; the file stays open.
 */
export async function openSafetensors(file: RandomAccessFile, name: string): Promise<SafetensorsReader> {
  const fail: Fail = (message) => {
    throw new SafetensorsError(`${name}: ${message}`);
  };
  const headerBytes = await readHeaderLength(file, fail);
  const bytes = new Uint8Array(headerBytes);
  await file.read(8, bytes);

  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return fail('the header is not UTF-8 text. The file is damaged: download it again.');
  }
  const header = parseJsonObject(text, `${name}: the header`, SafetensorsError);
  const duplicate = findDuplicateKey(text);
  if (duplicate !== undefined) fail(`the header names '${duplicate}' twice.`);

  const dataStart = 8 + headerBytes;
  const tensors = new Map<string, TensorInfo>();
  for (const [tensor, entry] of Object.entries(header)) {
    if (tensor !== '__metadata__') tensors.set(tensor, parseTensor(tensor, entry, dataStart, file.size, fail));
  }
  checkCoverage(tensors, dataStart, file.size, fail);
  return new SafetensorsReader(file, name, tensors, parseMetadata(header.__metadata__, fail));
}

type Fail = (message: string) => never;

async function readHeaderLength(file: RandomAccessFile, fail: Fail): Promise<number> {
  if (file.size < 8) {
    fail(`the file has ${file.size} bytes; even an empty one has 10. Download it again.`);
  }
  const prefix = new Uint8Array(8);
  await file.read(0, prefix);
  // A 64-bit number does not fit a JavaScript number: compare as BigInt, then convert.
  const length = new DataView(prefix.buffer).getBigUint64(0, true);
  if (new TextDecoder().decode(prefix) === 'version ') {
    // What git checks out when Git LFS is not installed: a few lines of text in place of the weights.
    fail("this is a Git LFS pointer, not the weights. Run 'git lfs pull' in the model's folder.");
  }
  if (length > BigInt(MAX_HEADER_BYTES)) {
    fail(`the header would take ${length} bytes; the format allows ${MAX_HEADER_BYTES}. Is this a safetensors file?`);
  }
  if (length > BigInt(file.size - 8)) {
    fail(`the header should take ${length} bytes, but only ${file.size - 8} follow. Download the file again.`);
  }
  return Number(length);
}

function parseTensor(tensor: string, entry: unknown, dataStart: number, fileSize: number, fail: Fail): TensorInfo {
  if (!isJsonObject(entry)) return fail(`'${tensor}' must be an object with dtype, shape and data_offsets.`);
  const { dtype, shape, data_offsets: offsets } = entry as JsonObject;
  if (typeof dtype !== 'string' || !Object.hasOwn(ELEMENT_BYTES, dtype)) {
    const known = Object.keys(ELEMENT_BYTES).join(', ');
    return fail(`'${tensor}' has the unknown dtype ${show(dtype)}. Known: ${known}.`);
  }
  if (!isCountArray(shape)) {
    return fail(`'${tensor}' has the shape ${show(shape)}; it must be a list of whole numbers of at least 0.`);
  }
  if (!isCountArray(offsets) || offsets.length !== 2) {
    return fail(`'${tensor}' has data_offsets ${show(offsets)}; they must be [begin, end], two whole numbers.`);
  }
  const [begin, end] = offsets;
  if (begin > end) fail(`'${tensor}' begins at byte ${begin}, after its end at ${end}.`);
  if (end > fileSize - dataStart) {
    fail(
      `'${tensor}' ends at byte ${end} of the data, but the file has ${fileSize - dataStart}. ` +
        'It was cut off: download it again.',
    );
  }
  // In floating point: a product too large for exact integers is still far from any real byte count.
  const needed = shape.reduce((product, dim) => product * dim, ELEMENT_BYTES[dtype]);
  if (needed !== end - begin) {
    fail(`'${tensor}' of ${dtype} ${show(shape)} needs ${needed} bytes, but its data_offsets span ${end - begin}.`);
  }
  return { dtype, shape, begin: dataStart + begin, end: dataStart + end };
}

/** The tensors must fill the data without gaps and without sharing bytes, as the format demands. */
function checkCoverage(tensors: ReadonlyMap<string, TensorInfo>, dataStart: number, fileSize: number, fail: Fail) {
  const inOrder = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let covered = dataStart;
  for (const [tensor, { begin, end }] of inOrder) {
    if (begin < covered) fail(`'${tensor}' overlaps the tensor before it by ${covered - begin} bytes.`);
    if (begin > covered) fail(`${begin - covered} bytes before '${tensor}' belong to no tensor.`);
    covered = end;
  }
  if (covered !== fileSize) fail(`the last ${fileSize - covered} bytes belong to no tensor.`);
}

function parseMetadata(value: unknown, fail: Fail): Map<string, string> {
  if (value === undefined) return new Map();
  if (!isJsonObject(value)) return fail('__metadata__ must be an object of strings.');
  return new Map(
    Object.entries(value).map(([key, text]) => {
      if (typeof text !== 'string') return fail(`__metadata__ '${key}' must be a string, got ${show(text)}.`);
      return [key, text];
    }),
  );
}

function isCountArray(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? 'nothing';
  return text.length > 60 ? `${text.slice(0, 57)}…` : text;
}
