import { fieldLines, flagLine, parseFlags, parseOptionalBoolean, readFields } from '#nano/cli/flags';
import { CONFIG_FIELDS, type ConfigOptions } from '#nano/config';
import { SAMPLING_FIELDS, type SamplingOptions } from '#nano/sampling-params';

export interface Arguments {
  readonly help: boolean;
  readonly chat: boolean;
  readonly model: string | undefined;
  readonly prompt: string | undefined;
  readonly system: string | undefined;
  readonly enableThinking: boolean | undefined;
  readonly profile: string | undefined;
  readonly learner: string | undefined;
  readonly config: ConfigOptions;
  readonly sampling: SamplingOptions;
}

/** Flags that belong to neither the engine nor the sampling. */
const COMMON = {
  model: ['DIR|ID', 'Model folder or hub id; default: the bundled storyteller.'],
  prompt: ['TEXT', 'Text to continue; default: the model is asked for a story.'],
  chat: ['', 'Talk with the model in the terminal.'],
  system: ['TEXT', 'System message of the chat.'],
  'enable-thinking': ['BOOL', "Qwen3's thinking switch in the chat template."],
  profile: ['FILE', 'Write a trace of the run there: open it in ui.perfetto.dev.'],
  learner: ['DAYS', 'Run the engine with your exercises of these days in it: 3, or 1-5.'],
  help: ['', 'Show this.'],
} as const;

/** @throws ConfigError naming the flag, the value and what is accepted. */
export function parseArguments(argv: string[]): Arguments {
  const common = Object.fromEntries(
    Object.keys(COMMON).map((name) => [name, name === 'chat' || name === 'help' ? 'boolean' : 'string'] as const),
  );
  const hint = '`npm start -- --help` lists all flags.';
  const values = parseFlags(argv, { ...SAMPLING_FIELDS, ...CONFIG_FIELDS }, common, hint);
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
    profile: text('profile'),
    learner: text('learner'),
    config: readFields(CONFIG_FIELDS, values) as ConfigOptions,
    sampling: readFields(samplingFields, values) as SamplingOptions,
  };
}

export function helpText(): string {
  const { seed: _, ...samplingFields } = SAMPLING_FIELDS;
  return [
    'Usage: npm start -- [flags]      (or: nano-vllm [flags])',
    '',
    ...Object.entries(COMMON).map(([flag, [value, doc]]) => flagLine(flag, value, doc)),
    '',
    'Sampling (defaults come from the model):',
    ...fieldLines(samplingFields),
    '',
    'Engine:',
    ...fieldLines(CONFIG_FIELDS),
    '',
  ].join('\n');
}
