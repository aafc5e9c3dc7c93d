// Renders the diagrams of the course and the docs: every .mmd (Mermaid) gets an .svg beside it, which is committed, so
// that readers need no browser. Rendering needs Chromium on this machine: `npm run diagrams`, or
// `npm run diagrams -- days/day1/diagrams/states.mmd` for one.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

// Not among the packages of package.json: the renderer and its packages weigh more than all others together.
const RENDERER = ['@mermaid-js/mermaid-cli@11.17.0', 'puppeteer@24'];

// GitHub shows an SVG file as it is on a light or a dark page, so it brings its own white paper and dark ink.
const THEME = {
  theme: 'base',
  htmlLabels: false,
  flowchart: { htmlLabels: false, useMaxWidth: false },
  state: { useMaxWidth: false, nodeSpacing: 70, rankSpacing: 60 },
  sequence: { useMaxWidth: false },
  // Labels stand on the lines they belong to: without an opaque ground the line strikes them through.
  themeCSS: '.edgeLabel rect, .edgeLabel .background { fill: #ffffff !important; opacity: 1 !important; }',
  themeVariables: {
    background: '#ffffff',
    fontFamily: 'Helvetica, Arial, sans-serif',
    primaryColor: '#dbeafe',
    primaryBorderColor: '#1d4ed8',
    primaryTextColor: '#1a1a1a',
    secondaryColor: '#f1f5f9',
    tertiaryColor: '#f8fafc',
    tertiaryBorderColor: '#94a3b8',
    lineColor: '#475569',
    textColor: '#1a1a1a',
    edgeLabelBackground: '#ffffff',
  },
};

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const named = process.argv.slice(2);
const files = named.length > 0 ? named : ['days', 'docs'].flatMap((folder) => find(folder));
const chromium = ['chromium', 'chromium-browser', 'google-chrome-stable', 'google-chrome'].map(onPath).find(Boolean);
if (!chromium) {
  console.error('Rendering diagrams needs Chromium or Chrome on the PATH (Debian: apt-get install chromium).');
  process.exit(1);
}

const settings = mkdtempSync(join(tmpdir(), 'diagrams-'));
try {
  writeFileSync(join(settings, 'mermaid.json'), JSON.stringify(THEME));
  // Without a sandbox, because containers often run as root; it only ever shows our own diagrams.
  writeFileSync(
    join(settings, 'browser.json'),
    JSON.stringify({ executablePath: chromium, args: ['--no-sandbox', '--disable-background-networking'] }),
  );
  for (const file of files) {
    const target = file.replace(/\.mmd$/, '.svg');
    const { status, stdout, stderr } = spawnSync(
      'npx',
      [
        ...['--yes', ...RENDERER.flatMap((name) => ['--package', name]), 'mmdc', '--quiet'],
        ...['--input', file, '--output', target, '--backgroundColor', 'white'],
        // Ids from the file's name, or else each run would change the SVG.
        ...['--svgId', file.replace(/\W+/g, '-')],
        ...['--configFile', join(settings, 'mermaid.json'), '--puppeteerConfigFile', join(settings, 'browser.json')],
      ],
      {
        cwd: root,
        encoding: 'utf8',
        env: { ...process.env, PUPPETEER_SKIP_DOWNLOAD: '1' },
        shell: process.platform === 'win32',
      },
    );
    if (status !== 0) {
      console.error(`${file} could not be rendered:\n${stdout}${stderr}`);
      process.exitCode = 1;
    } else {
      console.log(target);
    }
  }
} finally {
  rmSync(settings, { recursive: true, force: true });
}

function find(folder) {
  return readdirSync(join(root, folder), { recursive: true })
    .map(String)
    .filter((name) => name.endsWith('.mmd'))
    .map((name) => join(folder, name))
    .sort();
}

function onPath(program) {
  const folders = (process.env.PATH ?? '').split(delimiter);
  return folders
    .map((folder) => join(folder, program))
    .find((path) => spawnSync(path, ['--version'], { stdio: 'ignore' }).status === 0);
}
