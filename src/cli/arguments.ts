import { parseArgs } from 'node:util';
import { CONFIG_FIELDS, type ConfigOptions } from '#nano/config';
import { ConfigError } from '#nano/errors';
import { SAMPLING_FIELDS, type SamplingOptions } from '#nano/sampling-params';
import { describeField, type Field, type Fields } from '#nano/utils/fields';

export interface Arguments {
  readonly help: boolean;
  readonly chat: boolean;
  readonly model: string | undefined;
  readonly prompt: string | undefined;
  readonly system: string | undefined;
  readonly enableThinking: boolean | undefined;
  readonly learner: string | undefined;
  readonly config: ConfigOptions;
  readonly sampling: SamplingOptions;
}

const kebab = (name: string): string => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

/** Flags that belong to neither the engine nor the sampling. */
const COMMON = {
  model: ['DIR|ID', 'Model folder or hub id; default: the bundled storyteller.'],
  prompt: ['TEXT', 'Text to continue; default: the model is asked for a story.'],
  chat: ['', 'Talk with the model in the terminal.'],
  system: ['TEXT', 'System message of the chat.'],
  'enable-thinking': ['BOOL', "Qwen3's thinking switch in the chat template."],
  learner: ['DAYS', 'Run the engine with your exercises of these days in it: 3, or 1-5.'],
  help: ['', 'Show this.'],
} as const;

/** @throws ConfigError naming the flag, the value and what is accepted. */
export function parseArguments(argv: string[]): Arguments {
  const flags: Record<string, { type: 'string' | 'boolean'; multiple?: boolean }> = {};
  for (const name of Object.keys(COMMON)) {
    flags[name] = { type: name === 'chat' || name === 'help' ? 'boolean' : 'string' };
  }
  for (const [name, field] of Object.entries({ ...SAMPLING_FIELDS, ...CONFIG_FIELDS })) {
    flags[kebab(name)] = { type: 'string', multiple: field.kind === 'strings' || field.kind === 'integers' };
  }
  // `--ignore-eos` alone means true; parseArgs wants a value for a string flag.
  const booleans = [...Object.entries<Field>({ ...SAMPLING_FIELDS, ...CONFIG_FIELDS })]
    .filter(([, field]) => field.kind === 'flag')
    .map(([name]) => `--${kebab(name)}`);
  const args = argv.map((arg) => (booleans.includes(arg) ? `${arg}=true` : arg));
  let values: Record<string, unknown>;
  try {
    ({ values } = parseArgs({ args: joinNegative(args), options: flags, strict: true, allowPositionals: false }));
  } catch (cause) {
    throw new ConfigError(`${(cause as Error).message.split('. ')[0]}. \`npm start -- --help\` lists all flags.`, {
      cause,
    });
  }
  const text = (name: keyof typeof COMMON) => values[name] as string | undefined;
  // One seed serves both: the engine's, from which requests without their own derive theirs.
  const { seed: _, ...samplingFields } = SAMPLING_FIELDS;
  return {
    help: values.help === true,
    chat: values.chat === true,
    model: text('model'),
    prompt: text('prompt'),
    system: text('system'),
    enableThinking: parseOptionalBoolean('enable-thinking', text('enable-thinking')),
    learner: text('learner'),
    config: readFields(CONFIG_FIELDS, values) as ConfigOptions,
    sampling: readFields(samplingFields, values) as SamplingOptions,
  };
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

function readFields(fields: Fields, values: Record<string, unknown>): object {
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
      return (value as string[]).flatMap((text) => text.split(',').map(toNumber));
    default:
      return value;
  }
}

function parseOptionalBoolean(flag: string, text: string | undefined): boolean | undefined {
  if (text === undefined) return undefined;
  if (text === 'true' || text === 'false') return text === 'true';
  throw new ConfigError(`--${flag} must be true or false, got '${text}'.`);
}

export function helpText(): string {
  const line = (flag: string, value: string, doc: string) => `  ${`--${flag} ${value}`.padEnd(34)} ${doc}`;
  const section = (fields: Fields) =>
    Object.entries(fields).map(([name, field]) => line(kebab(name), valueName(field), field.doc));
  const { seed: _, ...samplingFields } = SAMPLING_FIELDS;
  return [
    'Usage: npm start -- [flags]      (or: nano-vllm [flags])',
    '',
    ...Object.entries(COMMON).map(([flag, [value, doc]]) => line(flag, value, doc)),
    '',
    'Sampling (defaults come from the model):',
    ...section(samplingFields),
    '',
    'Engine:',
    ...section(CONFIG_FIELDS),
    '',
  ].join('\n');
}

function valueName(field: Field): string {
  switch (field.kind) {
    case 'choice':
      return field.choices.join('|');
    case 'flag':
      return 'BOOL';
    case 'strings':
      return 'TEXT (repeatable)';
    case 'integers':
      return 'N,N…';
    case 'number':
      return 'N';
  }
}
