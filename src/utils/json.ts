import { ModelError } from '#nano/errors';

export type JsonObject = Readonly<Record<string, unknown>>;

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * Parses the JSON object in `text`.
 * @throws ErrorClass (ModelError unless told otherwise) naming the file, when it is not JSON or not an object.
 */
export function parseJsonObject(
  text: string,
  file: string,
  ErrorClass: new (message: string, options?: ErrorOptions) => ModelError = ModelError,
): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new ErrorClass(`${file} is not valid JSON: ${(cause as Error).message}`, { cause });
  }
  if (!isJsonObject(value)) throw new ErrorClass(`${file} must hold a JSON object.`);
  return value;
}

/**
 * The first key that stands twice in one object of a JSON text. JSON.parse keeps the last of them
 * without a word; in a header of byte offsets that would hide a tensor.
 * `text` must be valid JSON.
 */
export function findDuplicateKey(text: string): string | undefined {
  // One set of keys for each object that is open, `undefined` for an open array.
  const open: (Set<string> | undefined)[] = [];
  let at = 0;
  while (at < text.length) {
    const char = text[at];
    if (char === '{') open.push(new Set());
    else if (char === '[') open.push(undefined);
    else if (char === '}' || char === ']') open.pop();
    if (char !== '"') {
      at++;
      continue;
    }
    const end = endOfString(text, at);
    let next = end;
    while (next < text.length && ' \t\r\n'.includes(text[next])) next++;
    // Only a key is followed by a colon.
    if (text[next] === ':') {
      const key: string = JSON.parse(text.slice(at, end));
      const keys = open[open.length - 1];
      if (keys?.has(key)) return key;
      keys?.add(key);
    }
    at = end;
  }
  return undefined;
}

/** The index after the closing quote of the string that opens at `at`. */
function endOfString(text: string, at: number): number {
  let i = at + 1;
  while (i < text.length && text[i] !== '"') i += text[i] === '\\' ? 2 : 1;
  return i + 1;
}
