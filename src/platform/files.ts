/** One file that can be read in any order: weights are larger than a single buffer should be. */
export interface RandomAccessFile {
  readonly size: number;
  /** Fills `into` from byte `offset`. @throws ModelError when the file ends before that. */
  read(offset: number, into: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

/** The files of one model, wherever they lie: a folder, the hub's cache, a web server. */
export interface ModelFiles {
  /** For messages: the folder, hub id or address. */
  readonly name: string;
  has(file: string): Promise<boolean>;
  /** @throws ModelError naming the file when there is none. */
  readText(file: string): Promise<string>;
  /** @throws ModelError naming the file when there is none. */
  open(file: string): Promise<RandomAccessFile>;
}
