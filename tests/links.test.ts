// Documents that stay true: links, anchors, lines, commands and flags, and docs/api.md beside the code it is made of.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { findProblems, fixLines, slugs } from '../scripts/links.mjs';

const ROOT = resolve(import.meta.dirname, '..');

describe('this repository', () => {
  test('its documents link to what is there, and name commands and flags that work', async () => {
    const problems = await findProblems();
    expect(problems.map(({ file, line, problem }) => `${file}:${line}: ${problem}`)).toEqual([]);
  });

  test('docs/api.md is what the comments in src/ make of it', () => {
    const { status, stderr } = spawnSync(process.execPath, ['scripts/api.mjs', '--check'], {
      cwd: ROOT,
      encoding: 'utf8',
    });
    expect(stderr).toBe('');
    expect(status).toBe(0);
  });
});

describe('the checker', () => {
  let root: string;
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'links-'));
  });
  afterEach(() => rmSync(root, { recursive: true, force: true }));

  const write = (files: Record<string, string>) => {
    for (const [name, text] of Object.entries(files)) {
      mkdirSync(dirname(join(root, name)), { recursive: true });
      writeFileSync(join(root, name), text);
    }
  };
  /** What is wrong with these files, as `FILE:LINE: problem`. */
  const problemsOf = async (files: Record<string, string>) => {
    write(files);
    return (await findProblems({ root })).map(({ file, line, problem }) => `${file}:${line}: ${problem}`);
  };

  test('anchors are made as GitHub makes them', () => {
    expect(
      slugs(['A `code` of n + 1?', 'Größe & Co.', 'two words', 'Two  words', 'two words', 'snake_case-x']),
    ).toEqual(['a-code-of-n--1', 'größe--co', 'two-words', 'two--words', 'two-words-1', 'snake_case-x']);
  });

  const files = {
    'docs/b.md': '# One *two* `three`\n\nText\n\n# Again\n# Again\n\nUnderlined\n---\n\n<a id="own"></a>\n',
    'src/a.ts': 'export class Cup {\n  private fill(): void {\n    pour();\n  }\n}\nconst cup = new Cup();\n',
    'pic.svg': '',
  };

  test.each([
    '[b](docs/b.md), [a folder](docs), [another](docs/), [anchors](docs/b.md#one-two-three) [twice](docs/b.md#again-1)',
    '[setext](docs/b.md#underlined), [html](docs/b.md#own), <a href="docs/b.md">b</a>, <img alt="" src="pic.svg">',
    '![image](pic.svg), [![linked](pic.svg)](docs/b.md), [title](docs/b.md "a title"), [angle](<docs/b.md>), [ref]\n\n[ref]: pic.svg',
    '[`Cup`](src/a.ts#L1), [`fill`](src/a.ts#L2-L4), [`Cup.fill()`](src/a.ts#L1-L5), [lines](src/a.ts#L1-L6), ["pour()"](src/a.ts), ["b"](docs/b.md)',
    '[site](https://nowhere.invalid/x#y), <https://nowhere.invalid>, [mail](mailto:a@b.c)',
    'No links: `[a](b)`, \\[a](b), x[i](j k), ``[`a`](b)``\n\n```\n[a](b)\n[b]: c\n```\n\n<!-- [a](b) -->\n',
    '> ```\n> [a](b)\n> ```\n\n~~~\n```\n[a](b)\n~~~\n',
    '# Own heading\n\n[up](#own-heading)',
    '`src/a.ts`, `src/*.ts`, `src/`, `dist/x.js`',
  ])('finds nothing wrong with %j', async (text) => {
    expect(await problemsOf({ ...files, 'a.md': text })).toEqual([]);
  });

  test.each([
    ['[x](docs/c.md)', /^a\.md:1: docs\/c\.md leads to no file$/],
    ['\n\n[x](b.md)', /^a\.md:3: b\.md leads to no file; there is docs\/b\.md$/],
    ['[x](docs/B.md)', /leads to no file/],
    ['[x](/docs/b.md)', /begins with \//],
    ['[x](../secret.md)', /leads out of the repository/],
    ['![x](pic.png)', /pic\.png leads to no file/],
    ['[![x](pic.png)](docs/b.md)', /pic\.png leads to no file/],
    ['<img src="pic.png">', /pic\.png leads to no file/],
    ['[x]: pic.png', /pic\.png leads to no file/],
    ['[x](docs/b.md#one)', /docs\/b\.md has no heading #one; there is #one-two-three$/],
    ['[x](#nowhere)', /a\.md has no heading #nowhere$/],
    ['[x](src/a.ts#cup)', /no headings; lines are #L12/],
    ['[x](src/a.ts#L7)', /has lines 1 to 6, not L7/],
    ['[x](src/a.ts#L4-L2)', /has lines 1 to 6, not L4-L2/],
    ['[x](src/a.ts#L0)', /has lines 1 to 6, not L0/],
    ['[x](src/a.ts#L1-3)', /no range of lines/],
    ['[`fill`](src/a.ts#L1)', /fill is not in src\/a\.ts#L1; it is declared in line 2/],
    ['[`Cup.fill`](src/a.ts#L5-L6)', /fill is not in src\/a\.ts#L5-L6; it is declared in line 2/],
    ['[`Mug`](src/a.ts#L1-L6)', /Mug is not in src\/a\.ts#L1-L6$/],
    ['["fill it"](src/a.ts)', /src\/a\.ts does not say "fill it"/],
    ['see `src/c.ts`', /there is no src\/c\.ts/],
    ['set NANOVLLM_NOTHING=1', /no code reads NANOVLLM_NOTHING/],
  ])('finds what is wrong with %j', async (text, problem) => {
    expect(await problemsOf({ ...files, 'a.md': text })).toEqual([expect.stringMatching(problem)]);
  });

  test('a notebook: the line in its file, and the anchors of Jupyter', async () => {
    const cell = (cell_type: string, source: string[]) => ({ cell_type, id: 'x', metadata: {}, source });
    const cells = [
      cell('markdown', ['# 1. A `cup`\n', '\n', '[up](#1.-A-cup), [down](#1-a-cup)']),
      cell('code', ['[x](nothing.md)']),
      cell('markdown', ['[x](nothing.md)']),
    ];
    const problems = await problemsOf({ 'n/a.ipynb': JSON.stringify({ cells }, null, 1) });
    const lines = readFileSync(join(root, 'n/a.ipynb'), 'utf8').split('\n');
    expect(problems).toEqual([
      `n/a.ipynb:${1 + lines.findIndex((line) => line.includes('[down]'))}: n/a.ipynb has no heading #1-a-cup; there is #1.-A-cup`,
      `n/a.ipynb:${1 + lines.findLastIndex((line) => line.includes('nothing'))}: nothing.md leads to no file`,
    ]);
  });

  test('links to lines follow the symbol they are named after', async () => {
    const text =
      '[`Cup`](src/a.ts#L6) [`Cup.fill`](src/a.ts#L1-L2) [`cup`](src/a.ts#L1) [lines](src/a.ts#L3) [`none`](src/a.ts#L1)';
    write({ ...files, 'a.md': text });
    expect(fixLines({ root })).toEqual(['a.md']);
    expect(readFileSync(join(root, 'a.md'), 'utf8')).toBe(
      '[`Cup`](src/a.ts#L1) [`Cup.fill`](src/a.ts#L2-L4) [`cup`](src/a.ts#L6) [lines](src/a.ts#L3) [`none`](src/a.ts#L1)',
    );
    expect(fixLines({ root })).toEqual([]);
  });
});

// Against this repository's own scripts and parsers.
describe('commands', () => {
  const problemsOf = async (text: string) => {
    const problems = await findProblems({ documents: ['new.md'], texts: { 'new.md': text } });
    return problems.map(({ line, problem }) => `${line}: ${problem}`);
  };

  test('that work', async () => {
    const text = `
\`npm run lint\`, \`npm start -- --help\`, \`npm run X\`, \`npm run bench -- [flags]\`, \`npm run checkpoint -- 1.3 --solution\`

\`\`\`
npm start -- --model DIR --prompt "…" --temperature 0  # what follows is no flag: --no-such
NANOVLLM_NUM_THREADS=2 npm run bench -- --suite throughput \\
  --backend cuda --json FILE && npm run plots
bash scripts/gpu.sh bench; node dist/src/bench/main.js --suite latency --batch 1,16
\`\`\`
`;
    expect(await problemsOf(text)).toEqual([]);
  });

  test.each([
    ['`npm run lnit`', '1: npm run lnit: package.json has no such script'],
    ['```\nnpm run build\nnpm run no:such -- 1\n```', '3: npm run no:such: package.json has no such script'],
    ['`npm start -- --promt x`', "1: npm start: Unknown option '--promt'. `npm start -- --help` lists all flags."],
    ['`npm run bench -- --suite latncy`', /--suite must be one of latency, throughput, .*, got 'latncy'/],
    ['```\nnpm run bench -- --suite latency \\\n  --bach 1\n```', /^2: .*Unknown option '--bach'/],
    ['`npm run bench -- --repeats many`', /--repeats must be a whole number/],
    ['`npm run checkpoint -- 1.9`', '1: days/day1/checkpoint.test.ts has no task 1.9'],
    ['`npm run checkpoint -- 9`', '1: day 9 has no checkpoint'],
    ['`bash scripts/gpus.sh`', '1: there is no scripts/gpus.sh'],
  ])('that do not: %j', async (text, problem) => {
    expect(await problemsOf(text)).toEqual([typeof problem === 'string' ? problem : expect.stringMatching(problem)]);
  });
});
