import { parseArgs } from 'node:util';
import { ConfigError } from '#nano/errors';
import { describeField, type Field, type Fields } from '#nano/utils/fields';

// Settings (`Fields`) as command-line flags: maxNumSeqs becomes --max-num-seqs.

export const kebab = (name: string): string => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

type Values = Record<string, unknown>;

/**
 * The values of all flags on the command line, as text: those of `fields`, and of `others`, which are strings or booleans.
 * @throws ConfigError for a flag that does not exist or lacks its value; `hint` says where all are listed.
 */
export function parseFlags(
  argv: readonly string[],
  fields: Fields,
  others: Readonly<Record<string, 'string' | 'boolean'>>,
  hint: string,
): Values {
  const flags: Record<string, { type: 'string' | 'boolean'; multiple?: boolean }> = {};
  for (const [name, type] of Object.entries(others)) flags[name] = { type };
  for (const [name, field] of Object.entries(fields)) {
    flags[kebab(name)] = { type: 'string', multiple: ['strings', 'integers', 'rates'].includes(field.kind) };
  }
  // `--ignore-eos` alone means true; parseArgs wants a value for a string flag.
  const booleans = Object.entries(fields)
    .filter(([, field]) => field.kind === 'flag')
    .map(([name]) => `--${kebab(name)}`);
  const args = argv.map((arg) => (booleans.includes(arg) ? `${arg}=true` : arg));
  try {
    return parseArgs({ args: joinNegative(args), options: flags, strict: true, allowPositionals: false }).values;
  } catch (cause) {
    throw new ConfigError(`${(cause as Error).message.split('. ')[0]}. ${hint}`, { cause });
  }
}

/** `--num-kv-cache-blocks -1`: parseArgs would take -1 for a flag. */
function joinNegative(args: string[]): string[] {
  const joined: string[] = [];
  for (const arg of args) {
    if (/^-\d/.test(arg) && joined.at(-1)?.startsWith('--')) joined.push(`${joined.pop()}=${arg}`);
    else joined.push(arg);
  }
  return joined;
}

/** The fields that were given, as options. Ranges and choices are left to whoever takes the options. */
export function readFields(fields: Fields, values: Values): object {
  const options: Record<string, unknown> = {};
  for (const [name, field] of Object.entries(fields)) {
    const value = values[kebab(name)];
    if (value !== undefined) options[name] = readValue(name, field, value as string | string[]);
  }
  return options;
}

function readValue(name: string, field: Field, value: string | string[]): unknown {
  const toNumber = (text: string): number => {
    if (text.trim() !== '' && !Number.isNaN(Number(text))) return Number(text);
    throw new ConfigError(`--${kebab(name)} must be ${describeField(field)}, got '${text}'.`);
  };
  switch (field.kind) {
    case 'number':
      return toNumber(value as string);
    case 'flag':
      return parseOptionalBoolean(kebab(name), value as string);
    case 'integers':
    case 'rates':
      return (value as string[]).flatMap((text) => text.split(',').map(toNumber));
    default:
      return value;
  }
}

export function parseOptionalBoolean(flag: string, text: string | undefined): boolean | undefined {
  if (text === undefined) return undefined;
  if (text === 'true' || text === 'false') return text === 'true';
  throw new ConfigError(`--${flag} must be true or false, got '${text}'.`);
}

/** A line of the help text. */
export const flagLine = (flag: string, value: string, doc: string): string =>
  `  ${`--${flag} ${value}`.padEnd(34)} ${doc}`;

export const fieldLines = (fields: Fields): string[] =>
  Object.entries(fields).map(([name, field]) => flagLine(kebab(name), valueName(field), field.doc));

function valueName(field: Field): string {
  switch (field.kind) {
    case 'choice':
      return field.choices.join('|');
    case 'flag':
      return 'BOOL';
    case 'strings':
      return 'TEXT (repeatable)';
    case 'integers':
    case 'rates':
      return 'N,N…';
    case 'number':
      return 'N';
  }
}
