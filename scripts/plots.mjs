// Draws docs/benchmarks/*.json, as `npm run bench -- --json` writes them, into docs/benchmarks/plots/*.svg.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';

const folder = process.argv[2] ?? join(dirname(fileURLToPath(import.meta.url)), '../docs/benchmarks');
const { document } = parseHTML('<html></html>');

const BOUND = 'bound';
const SERIES_COLORS = ['#cfe0f3', '#93b9e1', '#4f8acb', '#1f5a9e'];
const PEER_COLORS = ['#f0b27a', '#c9772f'];
const [INK, PAPER] = ['#1a1a1a', 'white']; // read on light and on dark pages

/** What a suite's figures are drawn as: names of files, and what is in them. */
function plotsOf({ suite, rows, options }) {
  if (suite === 'attention') {
    return Object.fromEntries(
      [...new Set(rows.map(({ table }) => table))].map((table) => {
        const [, what, unit, how] = /^(.*): (.*?); (.*)$/.exec(table);
        const bars = rows
          .filter((row) => row.table === table)
          .map(({ what, column, value }) => ({ group: what, series: column, value }));
        return [`-${slug(what)}`, { title: `${what} (${how})`, unit, bars }];
      }),
    );
  }
  if (suite === 'latency') {
    return {
      '-first': {
        title: 'Time to the first token, by requests × prompt tokens',
        unit: 'ms',
        bars: besides(rows, ': first token'),
      },
      '-next': {
        title: 'Time for each next token, by requests × prompt tokens',
        unit: 'ms',
        bars: besides(rows, ': each next token'),
      },
    };
  }
  if (suite === 'parallel') {
    const table = (beginning) =>
      rows
        .filter((row) => row.table?.startsWith(beginning))
        .map(({ what, column, value }) => ({ group: what, series: column, value }));
    const work = `${options.shape}, by requests × prompt tokens`;
    return {
      '-next': { title: `Time for each next token: ${work}`, unit: 'ms', bars: table('Time for each next token') },
      '-communication': {
        title: `Communication in a decode step: ${work}`,
        unit: '% of its time',
        bars: table('Communication'),
      },
    };
  }
  if (suite === 'throughput') {
    const output = rows.filter(({ what }) => what.startsWith('output of'));
    return {
      '': {
        title: `Throughput: ${output[0].what}, 100 to 1024 tokens in and out`,
        unit: 'tok/s',
        bars: besides(output, ''),
      },
    };
  }
  return {};
}

/** A figure, the same of another engine, and the bound, side by side. */
function besides(rows, ending) {
  return rows
    .filter(({ what }) => what.endsWith(ending))
    .flatMap(({ what, value, peer, bound }) => {
      const group = ending ? what.slice(0, -ending.length) : '';
      return [
        { group, series: 'nano-vllm-ts', value },
        ...(peer ? [{ group, series: peer.name, value: peer.value }] : []),
        ...(bound ? [{ group, series: BOUND, value: bound }] : []),
      ];
    });
}

/** Bars side by side for each group, and the hardware's bound as a line over them. SVG text. */
function groupedBars({ title, unit, bars, source }) {
  const groups = [...new Set(bars.map(({ group }) => group))];
  const series = [...new Set(bars.map((bar) => bar.series))].filter((name) => name !== BOUND);
  const colors = colorsOf(series);
  const drawn = bars.filter(({ series, value }) => series !== BOUND && value !== null);
  const bounds = bars.filter((bar) => bar.series === BOUND);
  const width = Math.max(560, 90 + groups.length * (series.length * 30 + 28));
  const plot = Plot.plot({
    document,
    width,
    height: 360,
    marginTop: 96,
    marginBottom: 56,
    marginLeft: 56,
    style: { background: PAPER, color: INK, fontSize: '12px', fontFamily: 'Helvetica, Arial, sans-serif' },
    fx: { domain: groups, label: null, padding: 0.12, axis: groups.length > 1 ? 'bottom' : null },
    x: { domain: series, axis: null, padding: 0.08 },
    y: { label: null, grid: true, nice: true, zero: true },
    color: { domain: series, range: colors },
    marks: [
      Plot.barY(drawn, { fx: 'group', x: 'series', y: 'value', fill: 'series' }),
      Plot.ruleY(bounds, { fx: 'group', y: 'value', stroke: '#b3261e', strokeWidth: 2, strokeDasharray: '5 3' }),
      Plot.text(drawn, {
        ...{ fx: 'group', x: 'series', y: 'value', text: ({ value }) => short(value) },
        ...{ dy: -8, fontSize: 10, fill: INK, stroke: PAPER, strokeWidth: 4 },
      }),
      Plot.ruleY([0]),
    ],
  });
  plot.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
  const labels = [
    ...series.map((name, i) => [name, colors[i]]),
    ...(bounds.length > 0 ? [['what the hardware allows', null]] : []),
  ];
  const texts = `<g text-anchor="start"><text x="14" y="24" font-size="15" font-weight="bold" fill="${INK}">${xml(title)}</text>
    ${legend(labels)}
    <text x="14" y="348" font-size="10" fill="#666">${xml(source)}</text>
    <text x="14" y="76" fill="#666">${xml(unit)}</text></g>`;
  return `${plot.outerHTML.replace(/<\/svg>$/, `${texts}</svg>`)}\n`;
}

/** This engine's kernels in blues, the better the darker; others in oranges. */
function colorsOf(series) {
  const isPeer = (name) => /PyTorch|Triton|nano-vllm$/.test(name);
  const own = series.filter((name) => !isPeer(name));
  const peers = series.filter(isPeer);
  return series.map((name) =>
    isPeer(name) ? PEER_COLORS[peers.indexOf(name)] : SERIES_COLORS.at(own.indexOf(name) - own.length),
  );
}

function legend(labels) {
  let x = 14;
  return labels
    .map(([name, color]) => {
      const mark = color
        ? `<rect x="${x}" y="41" width="12" height="12" fill="${color}"/>`
        : `<line x1="${x}" x2="${x + 16}" y1="47" y2="47" stroke="#b3261e" stroke-width="2" stroke-dasharray="5 3"/>`;
      const text = `<text x="${x + 20}" y="51" fill="${INK}">${xml(name)}</text>`;
      x += 40 + 6.4 * name.length;
      return mark + text;
    })
    .join('');
}

const short = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toPrecision(2));
const slug = (text) =>
  text
    .toLowerCase()
    .replace(/ attention|[^a-z0-9]+/g, '-')
    .replace(/-+/g, '-');
const xml = (text) => text.replace(/&/g, '&amp;').replace(/</g, '&lt;');

mkdirSync(join(folder, 'plots'), { recursive: true });
for (const file of readdirSync(folder).filter((name) => name.endsWith('.json'))) {
  const record = JSON.parse(readFileSync(join(folder, file), 'utf8'));
  for (const [name, options] of Object.entries(plotsOf(record))) {
    if (options.bars.filter(({ series }) => series !== BOUND).length < 2) continue; // one bar says no more than its number
    const path = join(folder, 'plots', `${basename(file, '.json')}${name}.svg`);
    writeFileSync(
      path,
      groupedBars({ ...options, source: `${record.device}, ${record.date}, commit ${record.commit}` }),
    );
    console.log(path);
  }
}
