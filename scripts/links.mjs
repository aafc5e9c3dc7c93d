// Checks what the documents say about this repository, without a network: in every .md and .ipynb file that git tracks,
//
// - links and images lead to files of the repository, and their anchors to headings;
// - links to lines (`file.ts#L12`, `#L12-L30`) lead to lines that are there, and hold the symbol that is the link's text;
// - a link to code whose text is "quoted", such as the name of a test, leads to a file that says so;
// - commands (`npm run …`) name scripts, and their flags are accepted by the programs' own parsers;
// - paths and NANOVLLM_… variables in `code` exist.
//
//   npm run links                 prints each problem as FILE:LINE: what is wrong
//   npm run links -- --fix        first moves links to lines whose text is a `symbol` to where it is declared now
//   npm run links -- FILE …       these files only, tracked or not
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, posix, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

const repository = join(dirname(fileURLToPath(import.meta.url)), '..');
const NOT_OURS = new Set(['node_modules', 'dist', 'build', '.git', '.scratch']);

/**
 * @param {{ root?: string, documents?: string[], texts?: Record<string, string> }} options `documents`: paths from the root; default:
 *   all that are tracked. `texts`: what stands in some of them, in place of files.
 * @returns {Promise<{ file: string, line: number, problem: string }[]>}
 */
export async function findProblems({ root = repository, documents, texts = {} } = {}) {
  const repo = new Repository(root, texts);
  const commands = new Commands(repo);
  const problems = [];
  for (const file of documents ?? repo.documents()) {
    const document = repo.document(file);
    const report = (offset, problem) => problems.push({ file, line: lineAt(document.text, offset), problem });
    for (const link of document.links) {
      const problem = repo.problemOfLink(file, link);
      if (problem) report(link.offset, problem);
    }
    for (const { text, offset } of [...document.blocks, ...document.spans]) {
      for (const problem of await commands.problemsOf(text)) report(offset, problem);
    }
    for (const { text, offset } of document.spans) {
      if (looksLikePath(text) && !repo.has(text)) report(offset, `there is no ${text}`);
    }
    for (const { 0: name, index } of document.text.matchAll(/\bNANOVLLM_[A-Z_]+\b/g)) {
      if (!repo.source.includes(name)) report(index, `no code reads ${name}`);
    }
  }
  return problems.sort((a, b) => a.file.localeCompare(b.file) || a.line - b.line);
}

/**
 * Moves links to lines whose text is a symbol to where the symbol is declared: `#L12` to its first line, `#L12-L30` to all of it.
 * @param {{ root?: string, documents?: string[] }} options
 * @returns {string[]} the files that changed
 */
export function fixLines({ root = repository, documents } = {}) {
  const repo = new Repository(root);
  const changed = [];
  for (const file of (documents ?? repo.documents()).filter((name) => name.endsWith('.md'))) {
    const { text, links } = repo.document(file);
    let fixed = text;
    for (const link of links.toReversed?.() ?? [...links].reverse()) {
      const [path, anchor = ''] = link.target.split('#');
      const lines = /^L\d+(-L\d+)?$/.exec(anchor);
      const symbol = symbolOf(link.text);
      const target = resolve(file, path);
      if (!lines || !symbol || !repo.has(target)) continue;
      const place = declarationOf(repo.read(target).split('\n'), symbol);
      if (!place) continue;
      const wanted = `${path}#L${place.first}${lines[1] && place.last > place.first ? `-L${place.last}` : ''}`;
      const at = fixed.indexOf(link.target, link.offset);
      fixed = fixed.slice(0, at) + wanted + fixed.slice(at + link.target.length);
    }
    if (fixed === text) continue;
    writeFileSync(join(root, file), fixed);
    changed.push(file);
  }
  return changed;
}

/** The files of this repository, and what is known of them. */
class Repository {
  constructor(root, texts = {}) {
    this.root = root;
    this.texts = texts;
    this.tracked = git(root, '--cached') ?? walk(root);
    // What is not committed yet may be linked to; what git ignores may not.
    this.files = new Set([...this.tracked, ...(git(root, '--others', '--exclude-standard') ?? [])]);
    this.folders = new Set([...this.files].flatMap(parents));
    this.parsed = new Map();
  }

  documents() {
    return this.tracked.filter((file) => /\.(md|ipynb)$/.test(file) && existsSync(join(this.root, file)));
  }

  has(path) {
    const name = path.replace(/\/$/, '');
    return (this.files.has(name) && existsSync(join(this.root, name))) || this.folders.has(name) || name === '.';
  }

  read(file) {
    return readFileSync(join(this.root, file), 'utf8').replaceAll('\r\n', '\n');
  }

  document(file) {
    if (!this.parsed.has(file)) {
      const text = this.texts[file] ?? this.read(file);
      this.parsed.set(file, parse(file.endsWith('.ipynb') ? markdownOf(text) : text, file.endsWith('.ipynb')));
    }
    return this.parsed.get(file);
  }

  /** All code, as one text: to see whether a name occurs in it. */
  get source() {
    const isSource = (file) =>
      /^(src|csrc|scripts|tests|\.ci|[\w.]+$)/.test(file) && /\.(ts|mjs|sh|cc|h|cuh?|txt)$|^\.ci/.test(file);
    const files = [...this.files].filter((file) => isSource(file) && existsSync(join(this.root, file)));
    const text = files.map((file) => this.read(file)).join('\n');
    Object.defineProperty(this, 'source', { value: text });
    return text;
  }

  problemOfLink(file, { text, target }) {
    if (/^([a-z][a-z\d+.-]*:|\/\/)/i.test(target)) return undefined; // the network's affair
    const [encoded, anchor] = target.split(/#(.*)/s);
    if (encoded.startsWith('/')) return `${target} begins with /: links are relative`;
    const path = encoded ? resolve(file, encoded) : file;
    if (path.startsWith('..')) return `${target} leads out of the repository`;
    if (!this.has(path)) {
      if (existsSync(join(this.root, path))) return `${target} leads to a file that git ignores`;
      const others = [...this.files].filter((other) => posix.basename(other) === posix.basename(path));
      const hint = others.length > 0 && others.length < 4 ? `; there is ${others.join(', ')}` : '';
      return `${target} leads to no file${hint}`;
    }
    const [, quoted] = /^"(.+)"$/s.exec(text) ?? [];
    if (quoted && encoded && !/\.(md|ipynb)$/.test(path) && !this.read(path).includes(quoted.replace(/\s+/g, ' '))) {
      return `${path} does not say "${quoted}"`;
    }
    if (!anchor) return undefined;
    if (/^L\d/.test(anchor) && !path.endsWith('.ipynb')) return this.problemOfLines(path, anchor, text);
    if (!/\.(md|ipynb)$/.test(path))
      return `${target}: an anchor of a file with no headings; lines are #L12 or #L12-L30`;
    const { anchors } = this.document(path);
    const wanted = decodeURIComponent(anchor);
    return anchors.has(wanted) ? undefined : `${path} has no heading #${wanted}${nearest(wanted, anchors)}`;
  }

  problemOfLines(path, anchor, text) {
    const [, first, , last] = /^L(\d+)(-L(\d+))?$/.exec(anchor) ?? [];
    if (!first) return `#${anchor} is no range of lines: #L12 or #L12-L30`;
    const lines = this.read(path).replace(/\n$/, '').split('\n');
    const [from, to] = [Number(first), Number(last ?? first)];
    if (from < 1 || to < from || to > lines.length) return `${path} has lines 1 to ${lines.length}, not ${anchor}`;
    const symbol = symbolOf(text);
    if (!symbol || lines.slice(from - 1, to).some((line) => word(symbol.name).test(line))) return undefined;
    const place = declarationOf(lines, symbol);
    return `${symbol.name} is not in ${path}#${anchor}${place ? `; it is declared in line ${place.first} (\`npm run links -- --fix\`)` : ''}`;
  }
}

/** Commands in the documents. */
class Commands {
  constructor(repo) {
    this.repo = repo;
    this.scripts = repo.has('package.json') ? JSON.parse(repo.read('package.json')).scripts : {};
  }

  async problemsOf(text) {
    const problems = [];
    for (const words of commandsIn(text)) {
      const problem = await this.problemOf(words);
      if (problem) problems.push(problem);
    }
    return problems;
  }

  async problemOf([program, ...words]) {
    if (program === 'nano-vllm') return this.problemOfFlags('start', words);
    if (program === 'npm' && ['run', 'start', 'test'].includes(words[0])) {
      const name = words[0] === 'run' ? words[1] : words[0];
      if (!name || isPlaceholder(name)) return undefined;
      if (!Object.hasOwn(this.scripts, name)) return `npm run ${name}: package.json has no such script`;
      const dashes = words.indexOf('--');
      return dashes < 0 ? undefined : this.problemOfFlags(name, words.slice(dashes + 1));
    }
    if (!['node', 'bash'].includes(program)) return undefined;
    const file = words.find((word) => !word.startsWith('-')) ?? '';
    if (file === 'dist/src/cli.js') return this.problemOfFlags('start', words.slice(words.indexOf(file) + 1));
    if (file === 'dist/src/bench/main.js') return this.problemOfFlags('bench', words.slice(words.indexOf(file) + 1));
    return looksLikePath(file) && !this.repo.has(file) ? `there is no ${file}` : undefined;
  }

  /** Arguments of a script, by the parser of the program it starts. */
  async problemOfFlags(script, words) {
    if (script === 'checkpoint') return this.problemOfTask(words);
    if (script !== 'start' && script !== 'bench') return undefined;
    if (words.some((word) => /^\[.*\]$|^…$/.test(word))) return undefined; // [flags]
    const { parseArguments, parseBenchArguments, suites } = await this.parsers();
    const parse = (argv) => (script === 'start' ? parseArguments(argv) : parseBenchArguments(argv, suites));
    let problem;
    for (const instead of ['', '1', 'true', suites[0]]) {
      try {
        parse(words.map((word) => (isPlaceholder(word) && instead ? instead : word)));
        return undefined;
      } catch (error) {
        problem ??= `${script === 'start' ? 'npm start' : `npm run ${script}`}: ${error.message}`;
      }
      if (!words.some(isPlaceholder)) break;
    }
    return problem;
  }

  problemOfTask(words) {
    const [, day, task] = /^(\d)(?:\.(\d+))?$/.exec(words.find((word) => !word.startsWith('-')) ?? '') ?? [];
    if (!day) return undefined;
    const file = `days/day${day}/checkpoint.test.ts`;
    if (!this.repo.has(file)) return `day ${day} has no checkpoint`;
    const isThere = !task || new RegExp(`['"\`]${day}\\.${task} `).test(this.repo.read(file));
    return isThere ? undefined : `${file} has no task ${day}.${task}`;
  }

  /** The programs' own parsers of flags, bundled, since src/ is TypeScript; and the names of the benchmark's suites. */
  async parsers() {
    if (this.loaded) return this.loaded;
    const { build } = await import('esbuild');
    const stdin = {
      contents: `export * from '#nano/cli/arguments'; export { parseBenchArguments } from '#nano/bench/options';`,
      resolveDir: join(this.repo.root, 'src'),
    };
    const options = { bundle: true, write: false, format: 'esm', platform: 'node', conditions: ['source'] };
    const { outputFiles } = await build({ stdin, ...options });
    const module = await import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].text).toString('base64')}`);
    const [, table] = /const SUITES\b[^{]*\{\n(.*?)\n\};/s.exec(this.repo.read('src/bench/main.ts')) ?? [];
    const suites = [...table.matchAll(/^ {2}(\w+): \{/gm)].map(([, name]) => name);
    this.loaded = { ...module, suites };
    return this.loaded;
  }
}

/** Links, headings and code of a Markdown text. */
function parse(text, isNotebook) {
  const { masked, blocks, spans } = maskCode(text);
  const headings = [...headingsOf(masked, text)];
  const anchors = new Set(isNotebook ? headings.map(jupyterAnchor) : slugs(headings));
  for (const [, id] of masked.matchAll(/<a\s+(?:id|name)="([^"]+)"/g)) anchors.add(id);
  return { text, links: [...linksOf(masked, text, 0)], anchors, blocks, spans };
}

/** Code and comments made invisible, place by place; fenced blocks and `spans` on their own. */
function maskCode(text) {
  const blocks = [];
  let fence = null;
  let offset = 0;
  let masked = text.replace(/^.*$/gm, (line) => {
    const at = offset;
    offset += line.length + 1;
    const [, mark] = /^[\s>]*(`{3,}|~{3,})/.exec(line) ?? [];
    if (fence && mark?.startsWith(fence)) fence = null;
    else if (fence) blocks.push({ text: line, offset: at });
    else if (mark) fence = mark;
    else return line;
    return ' '.repeat(line.length);
  });
  masked = masked.replace(/<!--.*?-->/gs, (comment) => comment.replace(/[^\n]/g, ' '));
  const spans = [];
  masked = masked.replace(/(?<![`\\])(`+)(?!`)((?:(?!\n\s*\n).)*?[^`])\1(?!`)/gs, (_, ticks, code, at) => {
    spans.push({ text: code.trim().replace(/\s+/g, ' '), offset: at });
    return ticks + code.replace(/[^\n]/g, 'x') + ticks;
  });
  return { masked: masked.replace(/\\[[\]()\\]/g, 'xx'), blocks: joinContinued(blocks), spans };
}

/** Lines that end with a backslash go on in the next. */
function joinContinued(lines) {
  return lines.reduce((joined, { text, offset }) => {
    const last = joined.at(-1);
    if (last?.text.endsWith('\\')) last.text = `${last.text.slice(0, -1)} ${text}`;
    else joined.push({ text, offset });
    return joined;
  }, []);
}

/** `[text](target)`, `![text](target)`, one within the other, `[name]: target`, and src and href of HTML. */
function* linksOf(masked, text, start) {
  const inline =
    /!?\[((?:[^[\]]|\[(?:[^[\]]|\[[^[\]]*\])*\])*)\]\(\s*(<[^>]*>|(?:[^\s()]|\([^\s()]*\))*)(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/g;
  for (const { 0: whole, 1: inner, 2: target, index } of masked.matchAll(inline)) {
    const from = start + index + whole.indexOf('[') + 1;
    yield { text: text.slice(from, from + inner.length), target: target.replace(/^<|>$/g, ''), offset: start + index };
    yield* linksOf(inner, text, from);
  }
  if (start > 0) return;
  for (const { 1: name, 2: target, index } of masked.matchAll(/^ {0,3}\[([^\]^][^\]]*)\]:\s*(\S+)/gm)) {
    yield { text: name, target, offset: index };
  }
  for (const { 1: target, index } of masked.matchAll(/<(?:img|source|a)\s[^>]*?(?:src|href)="([^"]*)"/g)) {
    yield { text: '', target, offset: index };
  }
}

function* headingsOf(masked, text) {
  for (const { 1: marks, 2: heading, index } of masked.matchAll(
    /^( {0,3}#{1,6}[ \t]+)(.*?)[ \t]*#*[ \t]*$|^(.+)\n(?:=+|-+)[ \t]*$/gm,
  )) {
    const from = index + (marks?.length ?? 0);
    const line = heading ?? text.slice(index).split('\n', 1)[0];
    yield plain(text.slice(from, from + line.length));
  }
}

/** A heading's text without its markup. */
const plain = (heading) =>
  heading
    .replace(/!\[[^\]]*\]\([^)]*\)/g, '')
    .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
    .replace(/<[^>]+>/g, '')
    .replace(/(\*{1,3}|(?<!\w)_{1,3}(?=\S)|(?<=\S)_{1,3}(?!\w))/g, '')
    .replaceAll('`', '')
    .trim();

/**
 * GitHub's anchors of headings: lower case, letters, digits, `-` and `_`, a dash for each space; the second of a kind gets -1.
 * @param {Iterable<string>} headings
 */
export function slugs(headings) {
  const seen = new Map();
  return [...headings].map((heading) => {
    const slug = heading
      .toLowerCase()
      .replace(/[^\p{L}\p{M}\p{N}\p{Pc}\- ]/gu, '')
      .replaceAll(' ', '-');
    const count = seen.get(slug) ?? 0;
    seen.set(slug, count + 1);
    return count === 0 ? slug : `${slug}-${count}`;
  });
}

const jupyterAnchor = (heading) => heading.replaceAll(' ', '-');

/** A notebook's Markdown, each line where the notebook's file has it. */
function markdownOf(notebook) {
  const lines = notebook.split('\n');
  const markdown = lines.map(() => '');
  let at = 0;
  for (const { cell_type, source } of JSON.parse(notebook).cells) {
    for (const part of [source].flat()) {
      const literal = JSON.stringify(part);
      const found = lines.findIndex((line, i) => i >= at && line.trim().replace(/,$/, '') === literal);
      if (found < 0) continue;
      if (cell_type === 'markdown') markdown[found] = part.replace(/\n$/, '');
      at = found + 1;
    }
  }
  return markdown.join('\n');
}

/** A link's text as a symbol, if it is one: `name`, `name()`, `Class.name`. */
function symbolOf(text) {
  const [, path] = /^`([A-Za-z_$][\w$]*(?:(?:\.|::)[A-Za-z_$#][\w$]*)*)(?:\(\))?`$/.exec(text.trim()) ?? [];
  if (!path || /\.(ts|mjs|cc|h|cu|cuh|md|json|sh|py)$/.test(path)) return undefined;
  const names = path.split(/\.|::/);
  return { name: names.at(-1), owner: names.length > 1 ? names.at(-2) : undefined };
}

/**
 * Where a symbol is declared, as far as its line tells: TypeScript, C++ and CUDA.
 * @returns {{ first: number, last: number } | undefined} lines, counted from 1
 */
function declarationOf(lines, { name, owner }) {
  const within = owner ? declarationOf(lines, { name: owner }) : undefined;
  const [from, to] = within ? [within.first, within.last] : [0, lines.length];
  const kinds = [
    `^(export |default |abstract |async |declare )*(class|interface|type|enum|function\\*?|const|let|struct|namespace) ${name}\\b`,
    `^(template <.*> )?(class|struct|union|enum( class)?) ${name}\\b`,
    `^\\s+(class|struct|enum( class)?) ${name}\\b`,
    `^(__global__|__device__|inline|constexpr|static|extern|void|bool|float|int|auto|const|template)\\b.*\\b${name}\\s*[(=;[{]`,
    `^\\s+(public |private |protected |readonly |static |async |abstract |override |get |set |\\*)*${name}\\??!?\\s*[(<:=]`,
    `^\\s*(export )?(const|let|function) ${name}\\b`,
    `^[\\w:<>,&*\\s]+[\\s:*&]${name}\\(.*[^;]$`,
    `^\\s+[\\w:<>,&*\\s]+[\\s*&]${name}\\s*[({=;]`,
  ];
  for (const kind of kinds) {
    const pattern = new RegExp(kind);
    const index = lines.findIndex((line, i) => i >= from && i < to && pattern.test(line));
    if (index >= 0) return { first: index + 1, last: endOf(lines, index) };
  }
  return undefined;
}

/** The last line of what begins in line `index`: the next one with the same indentation that closes something. */
function endOf(lines, index) {
  const [indent] = /^\s*/.exec(lines[index]);
  if (/[;,]$/.test(lines[index]) || /[^{(]*\}$/.test(lines[index])) return index + 1;
  const closing = new RegExp(`^${indent}[}\\])]`);
  for (let i = index + 1; i < lines.length; i++) {
    if (closing.test(lines[i]) && !/[{(]$/.test(lines[i])) return i + 1;
    if (lines[i].trim() !== '' && !lines[i].startsWith(indent)) break;
  }
  return index + 1;
}

/** The commands of a line, as words, without comments and variables set before them. */
function commandsIn(line) {
  const commands = [[]];
  for (const [token] of line.matchAll(/(?:"[^"]*"|'[^']*'|[^\s"'#;&|<>]|(?<=\S)#)+|#.*|&&|\|\||[;|<>&]/g)) {
    if (token.startsWith('#')) break;
    if (/^(&&|\|\||[;|&])$/.test(token)) commands.push([]);
    else commands.at(-1).push(token.replace(/["']/g, ''));
  }
  return commands
    .map((words) => words.slice(words.findIndex((word) => !/^([A-Z_]+=.*|\$)$/.test(word))))
    .filter(([first]) => first);
}

const isPlaceholder = (word) => /^[A-Z][A-Z_]*$|…|\.\.\.$/.test(word);
/** A path of a file. `dayN` stands for any day's. */
const looksLikePath = (text) =>
  /^(src|csrc|tests|scripts|docs|days|notebooks|models|\.ci)\/[\w./-]*\.\w+$/.test(text) && !text.includes('dayN');
const resolve = (file, path) =>
  posix.normalize(posix.join(posix.dirname(file), decodeURIComponent(path))).replace(/\/$/, '');
const word = (name) => new RegExp(`(?<![\\w$])${name.replace(/[$#]/g, '\\$&')}(?![\\w$])`);
const lineAt = (text, offset) => text.slice(0, offset).split('\n').length;
const parents = (file) =>
  file
    .split('/')
    .slice(0, -1)
    .map((_, i, names) => names.slice(0, i + 1).join('/'));

function nearest(wanted, anchors) {
  const key = (anchor) => anchor.toLowerCase().replace(/[^\p{L}\p{N}]/gu, '');
  const similar = [...anchors].find((anchor) => key(anchor) === key(wanted) || key(anchor).startsWith(key(wanted)));
  return similar === undefined ? '' : `; there is #${similar}`;
}

function git(root, ...options) {
  if (!existsSync(join(root, '.git'))) return undefined;
  const { status, stdout } = spawnSync('git', ['ls-files', '-z', ...options], { cwd: root, encoding: 'utf8' });
  return status === 0 ? stdout.split('\0').filter(Boolean) : undefined;
}

function walk(root, folder = '') {
  return readdirSync(join(root, folder)).flatMap((name) => {
    const path = posix.join(folder, name);
    if (NOT_OURS.has(name)) return [];
    return statSync(join(root, path)).isDirectory() ? walk(root, path) : [path];
  });
}

async function main() {
  const args = process.argv.slice(2);
  const named = args.filter((arg) => arg !== '--fix').map((arg) => relative(repository, arg).replaceAll(sep, '/'));
  const options = named.length > 0 ? { documents: named } : {};
  if (args.includes('--fix')) for (const file of fixLines(options)) console.log(`moved links in ${file}`);
  const problems = await findProblems(options);
  for (const { file, line, problem } of problems) console.error(`${file}:${line}: ${problem}`);
  process.exitCode = problems.length > 0 ? 1 : 0;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
