import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { helpText, parseArguments } from '#nano/cli/arguments';
import { parseDays } from '#nano/cli/learner';
import { CONFIG_FIELDS } from '#nano/config';
import { SAMPLING_FIELDS } from '#nano/sampling-params';

const CLI = fileURLToPath(new URL('../dist/src/cli.js', import.meta.url));

/** Runs the compiled command line; `npm test` compiles before it tests. */
function run(args: string[], input = '') {
  expect(existsSync(CLI), 'dist/ is compiled by `npm test` and `npm run build`').toBe(true);
  return spawnSync(process.execPath, [CLI, ...args], { encoding: 'utf8', input });
}

describe('arguments', () => {
  test('every config and sampling field has a flag, and the help lists it', () => {
    const help = helpText();
    for (const name of [...Object.keys(CONFIG_FIELDS), ...Object.keys(SAMPLING_FIELDS)]) {
      expect(help).toContain(`--${name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)} `);
    }
  });

  test('values get the types of their fields', () => {
    const args = parseArguments([
      ...['--temperature', '0', '--top-k=5', '--stop', 'a', '--stop', 'b,c', '--stop-token-ids', '1,2', '--ignore-eos'],
      ...['--max-model-len', '128', '--num-kv-cache-blocks', '-1', '--enable-prefix-caching=false', '--seed', '3'],
      ...['--enforce-eager', '--enable-thinking', 'false'],
    ]);
    expect(args.sampling).toEqual({
      temperature: 0,
      topK: 5,
      stop: ['a', 'b,c'],
      stopTokenIds: [1, 2],
      ignoreEos: true,
    });
    expect(args.config).toEqual({
      maxModelLen: 128,
      numKvCacheBlocks: -1,
      enablePrefixCaching: false,
      enforceEager: true,
      seed: 3,
    });
    expect(args.enableThinking).toBe(false);
  });

  test.each([
    [['--temprature', '1'], /Unknown option '--temprature'/],
    [['--max-tokens', 'many'], /--max-tokens must be a whole number of at least 1, got 'many'/],
    [['--ignore-eos=perhaps'], /--ignore-eos must be true or false, got 'perhaps'/],
    [['story'], /Unexpected argument 'story'/],
  ])('%j is refused with the reason', (argv, message) => {
    expect(() => parseArguments(argv)).toThrow(message);
  });

  test('learner days', () => {
    expect(parseDays('3')).toEqual([3]);
    expect(parseDays('1-5')).toEqual([1, 2, 3, 4, 5]);
    for (const bad of ['0', '8', '5-1', 'x', '1,2']) expect(() => parseDays(bad)).toThrow(/--learner must be/);
  });
});

describe('the program', () => {
  test('a prompt is continued on standard output; what ran where goes to standard error', () => {
    const { stdout, stderr, status } = run(['--prompt', 'Once upon a time', '--temperature', '0', '--max-tokens', '8']);
    expect(stdout).toMatch(/^Once upon a time,? \w+/);
    expect(stderr).toMatch(/\[(cpu|reference): .* · prefill \d+ tok\/s · decode \d+ tok\/s · 8 tokens/);
    expect(status).toBe(0);
  });

  test('--chat answers each line and ends with the input', () => {
    const { stdout, status } = run(['--chat', '--temperature', '0'], 'Hello!\nWho are you?\n');
    expect(stdout.match(/model> \S+/g)).toHaveLength(2);
    expect(status).toBe(0);
  });

  test('a mistake gives one line and exit code 1', () => {
    const { stderr, status } = run(['--model', '/no/such/folder']);
    expect(stderr).toMatch(/^ModelError: '\/no\/such\/folder' is neither/);
    expect(stderr.trim().split('\n')).toHaveLength(1);
    expect(status).toBe(1);
  });

  test('--help needs no model', () => {
    expect(run(['--help', '--model', '/no/such/folder'])).toMatchObject({ status: 0, stdout: helpText() });
  });
});
