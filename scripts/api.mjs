// Writes docs/api.md from the comments in the code: what src/index.ts exports, with the settings' ranges and defaults.
//
//   npm run api                  writes it
//   npm run api -- --check       only says whether it is as it would be written (tests do)
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { Application, ReflectionKind, ReflectionType } from 'typedoc';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const target = join(root, 'docs/api.md');

/** Headings, and whose exports stand under them, in this order: paths under src/, up to where all say the same. */
const SECTIONS = {
  'Using the engine': [
    'llm',
    'engine/outputs',
    'engine/logprobs',
    'engine/llm-engine',
    'utils/chat-template',
    'utils/tokenizer',
  ],
  Settings: ['config', 'sampling-params'],
  Errors: ['errors'],
  'Parts of the engine': [
    'engine/',
    'layers/',
    'models/',
    'backends/',
    'tensor/',
    'distributed/',
    'utils/',
    'platform/',
    '',
  ],
  'For measurements': ['bench/'],
};

const INTRODUCTION = `# API

<!-- Made by \`npm run api\` from the comments in src/. Change those. -->

What \`import … from 'nano-vllm-ts'\` gives. [\`LLM\`](#llm) and its settings are all it takes to use the engine; the parts, and what is for
measurements, are there for the course.`;

/** The engine's own tables: bundled, since src/ is TypeScript. */
async function importSettings() {
  const stdin = {
    contents: `export * from '#nano/config'; export * from '#nano/sampling-params'; export * from '#nano/utils/fields';`,
    resolveDir: join(root, 'src'),
  };
  const { outputFiles } = await build({ stdin, bundle: true, write: false, format: 'esm', conditions: ['source'] });
  return import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].text).toString('base64')}`);
}

async function render() {
  const app = await Application.bootstrap({
    entryPoints: [join(root, 'src/index.ts')],
    tsconfig: join(root, 'tsconfig.json'),
    basePath: join(root, 'src'),
    disableGit: true,
    sourceLinkTemplate: '{path}',
    excludePrivate: true,
    excludeProtected: true,
    skipErrorChecking: true,
    sort: ['source-order'],
    logLevel: 'Error',
  });
  const { children } = await app.convert();
  const names = new Set(children.map(({ name }) => name));
  const parts = [INTRODUCTION];
  for (const [title, places] of Object.entries(SECTIONS)) {
    const exports = places.flatMap((place) => children.filter((child) => placeOf(child) === place));
    if (exports.length === 0) continue;
    parts.push(`## ${title}`, exports.map(({ name }) => `[\`${name}\`](#${slug(name)})`).join(' · '));
    for (const child of exports) parts.push(...renderExport(child, names));
  }
  return `${parts.filter(Boolean).join('\n\n')}\n`;
}

function renderExport(child, names) {
  const parts = [`### ${child.name}`, block(declarationOf(child)), docOf(child, names)];
  const { fields, defaults } = OPTIONS[child.name] ?? {};
  if (fields) parts.push(optionsTable(fields, defaults));
  else if (child.name in COMPLETE)
    parts.push(`Has each of the [options](#${slug(COMPLETE[child.name])}) as a property.`);
  else parts.push(...members(child, names));
  parts.push(`*From [src/${fileOf(child)}](../src/${fileOf(child)}).*`);
  return parts;
}

function members(child, names) {
  const all = (child.children ?? []).filter((member) => !isInheritedBuiltin(member));
  const values = all.filter(({ kind }) => [ReflectionKind.Property, ReflectionKind.Accessor].includes(kind));
  const rows = values.map((member) => {
    const type = member.type ?? member.getSignature?.type;
    return `| \`${member.name}${member.flags.isOptional ? '?' : ''}\` | ${cell(`\`${typeText(type)}\``)} | ${cell(docOf(member, names))} |`;
  });
  const parts = rows.length > 0 ? [['| | type | |', '|---|---|---|', ...rows].join('\n')] : [];
  for (const member of all.filter(({ kind }) => kind === ReflectionKind.Method)) {
    parts.push(`#### ${child.name}.${member.name}`, block(declarationOf(member)), docOf(member, names));
  }
  return parts;
}

function optionsTable(fields, defaults) {
  const rows = Object.entries(fields).map(([name, field]) => {
    const value = defaults[name];
    const shown = value === undefined ? '' : `\`${JSON.stringify(value).replaceAll('"', "'")}\``;
    return `| \`${name}\` | ${cell(describeField(field).replaceAll(`${Number.MIN_VALUE}`, '0'))} | ${shown} | ${cell(field.doc)} |`;
  });
  return ['| option | | default | |', '|---|---|---|---|', ...rows].join('\n');
}

/** The declaration as one would write it, without its body. */
function declarationOf(reflection) {
  const { name, kind, signatures = [] } = reflection;
  const heads = (of) => of.map((s) => `${parametersOf(s)}${s.type ? `: ${typeText(s.type)}` : ''}`);
  const extending = (word, types) => (types?.length ? ` ${word} ${types.map(typeText).join(', ')}` : '');
  switch (kind) {
    case ReflectionKind.Class: {
      const made = reflection.children?.find((member) => member.kind === ReflectionKind.Constructor);
      const own = made && !made.inheritedFrom ? made.signatures : [];
      const head = `class ${name}${extending('extends', reflection.extendedTypes)}${extending('implements', reflection.implementedTypes)}`;
      return [head, ...own.map((s) => `new ${name}${parametersOf(s)}`)].join('\n');
    }
    case ReflectionKind.Interface:
      return `interface ${name}${extending('extends', reflection.extendedTypes)}`;
    case ReflectionKind.TypeAlias:
      return `type ${name} = ${typeText(reflection.type)}`;
    case ReflectionKind.Variable: {
      const of = reflection.type instanceof ReflectionType ? reflection.type.declaration.signatures : undefined;
      return of ? heads(of).map((head) => `const ${name} = ${head}`)[0] : `const ${name}: ${typeText(reflection.type)}`;
    }
    default:
      return heads(signatures)
        .map((head) => `${kind === ReflectionKind.Function ? 'function ' : ''}${name}${head}`)
        .join('\n');
  }
}

/** Long lists one on a line. */
function parametersOf({ parameters = [] }) {
  const list = parameters.map(({ name, type, flags, defaultValue }) => {
    const given = name === '__namedParameters' ? 'options' : name;
    return `${flags.isRest ? '...' : ''}${given}${flags.isOptional || defaultValue !== undefined ? '?' : ''}: ${typeText(type)}`;
  });
  const line = `(${list.join(', ')})`;
  return line.length <= 90 ? line : `(\n${list.map((parameter) => `  ${parameter},\n`).join('')})`;
}

const typeText = (type) => (type ? type.toString().replace(/(\w+Array)<ArrayBufferLike>/g, '$1') : 'void');

/** Its comment, or that of its only signature; what it returns and throws; what its parameters mean. */
function docOf(reflection, names) {
  const holder = reflection.getSignature ?? reflection.signatures?.[0];
  const comment = reflection.comment ?? holder?.comment;
  const parameters = (holder?.parameters ?? []).filter(({ comment }) => comment?.summary.length > 0);
  const tags = comment?.blockTags ?? [];
  const tagged = (tag, word) =>
    tags.filter((t) => t.tag === tag).map(({ content }) => `*${word}* ${display(content, names)}`);
  return [
    display(comment?.summary ?? [], names),
    ...parameters.map(({ name, comment }) => `- \`${name}\`: ${display(comment.summary, names)}`),
    ...tagged('@returns', 'Returns'),
    ...tagged('@throws', 'Throws'),
  ]
    .filter(Boolean)
    .join('\n\n');
}

function display(parts, names) {
  return parts
    .map((part) => {
      if (part.kind !== 'inline-tag') return part.text;
      const [name] = part.text.split('.');
      return names.has(name) ? `[\`${part.text}\`](#${slug(part.text)})` : `\`${part.text}\``;
    })
    .join('')
    .trim();
}

/** The longest of the paths in SECTIONS that the export's file begins with. */
function placeOf(child) {
  const places = Object.values(SECTIONS).flat();
  const fitting = places.filter((place) => fileOf(child).startsWith(place));
  return fitting.reduce((longest, place) => (place.length > longest.length ? place : longest));
}

const fileOf = ({ sources: [source] }) => relative(join(root, 'src'), source.fullFileName).replaceAll(sep, '/');
/** What every Error has. */
const isInheritedBuiltin = ({ inheritedFrom, sources }) =>
  inheritedFrom !== undefined && (sources?.[0]?.fullFileName.includes('node_modules') ?? true);
const cell = (markdown) => markdown.replaceAll('|', '\\|').replace(/\s*\n\s*/g, ' ');
const block = (code) => `\`\`\`ts\n${code}\n\`\`\``;
const slug = (heading) =>
  heading
    .toLowerCase()
    .replace(/[^\p{L}\p{M}\p{N}\p{Pc}\- ]/gu, '')
    .replaceAll(' ', '-');

const { CONFIG_FIELDS, Config, SAMPLING_FIELDS, SamplingParams, describeField } = await importSettings();
/** Options whose meaning stands in a table of fields (src/utils/fields.ts), and an object with their defaults. */
const OPTIONS = {
  ConfigOptions: { fields: CONFIG_FIELDS, defaults: new Config() },
  SamplingOptions: { fields: SAMPLING_FIELDS, defaults: new SamplingParams() },
};

/** Classes that hold the same options, checked and filled in. */
const COMPLETE = { Config: 'ConfigOptions', SamplingParams: 'SamplingOptions' };

const text = await render();
if (!process.argv.includes('--check')) {
  writeFileSync(target, text);
} else if (!existsSync(target) || readFileSync(target, 'utf8') !== text) {
  console.error('docs/api.md is not what the comments in src/ make of it: run `npm run api`.');
  process.exitCode = 1;
}
