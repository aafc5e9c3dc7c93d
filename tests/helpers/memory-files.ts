import { ModelError } from '#nano/errors';
import type { ModelFiles, RandomAccessFile } from '#nano/platform/files';

/** A model folder in memory, for tests; remembers what was read and whether every file was closed. */
export class MemoryFiles implements ModelFiles {
  readonly name = 'memory';
  openFiles = 0;
  largestRead = 0;

  constructor(private readonly files: Readonly<Record<string, Uint8Array | string>>) {}

  async has(file: string): Promise<boolean> {
    return Object.hasOwn(this.files, file);
  }

  private bytes(file: string): Uint8Array {
    if (!Object.hasOwn(this.files, file)) throw new ModelError(`${file} is missing in ${this.name}.`);
    const content = this.files[file];
    return typeof content === 'string' ? new TextEncoder().encode(content) : content;
  }

  async readText(file: string): Promise<string> {
    return new TextDecoder().decode(this.bytes(file));
  }

  async open(file: string): Promise<RandomAccessFile> {
    const bytes = this.bytes(file);
    this.openFiles++;
    return {
      size: bytes.byteLength,
      read: async (offset, into) => {
        this.largestRead = Math.max(this.largestRead, into.byteLength);
        if (offset + into.byteLength > bytes.byteLength) throw new ModelError(`${file} ends before that.`);
        into.set(bytes.subarray(offset, offset + into.byteLength));
      },
      close: async () => {
        this.openFiles--;
      },
    };
  }
}

/** A safetensors file with this header, which need not be valid, and this much data. */
export function safetensorsFile(header: unknown, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  const text = new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header));
  const file = new Uint8Array(8 + text.byteLength + data.byteLength);
  new DataView(file.buffer).setBigUint64(0, BigInt(text.byteLength), true);
  file.set(text, 8);
  file.set(data, 8 + text.byteLength);
  return file;
}
