/*
 * Byte-level BPE (GPT-2's, used by Qwen and Llama 3) works on UTF-8 bytes, of which 256 exist, so it
 * never meets an unknown character. tokenizer.json is text, though, and some bytes are no printable
 * character. So each byte is written as one: printable Latin-1 bytes as themselves, the others, in
 * order, as the characters from U+0100 on. A space, byte 32, becomes U+0120: 'Ġ'.
 */

const CHAR_TO_BYTE = new Map<string, number>();
let next = 0x100;
for (let byte = 0; byte < 256; byte++) {
  const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xff && byte !== 0xad);
  CHAR_TO_BYTE.set(String.fromCharCode(printable ? byte : next++), byte);
}

/** The bytes that a token of a byte-level vocabulary stands for: 'Ġhello' is " hello". */
export function bytesOfToken(token: string): Uint8Array {
  return Uint8Array.from([...token].map((char) => CHAR_TO_BYTE.get(char) ?? 0));
}
