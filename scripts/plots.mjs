// Draws docs/benchmarks/*.json, as `npm run bench -- --json` and `--profile` write them, into docs/benchmarks/plots/*.svg.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { BLUES, BOUND, groupedBars, lines, ORANGES, RED, timeline, unique } from './charts.mjs';

const [LIGHT_BLUE, BLUE, LIGHT_ORANGE, ORANGE] = [BLUES[1], BLUES[3], ...ORANGES];
const folder = process.argv[2] ?? join(dirname(fileURLToPath(import.meta.url)), '../docs/benchmarks');

/** What a suite's figures are drawn as: endings of the files' names, and what is in them. */
const SUITES = { attention, backends, compare, latency, memory, parallel, serving, soak, throughput };

function attention({ rows }) {
  return Object.fromEntries(
    tablesOf(rows).map((table) => {
      const [, what, unit, how] = /^(.*): (.*?); (.*)$/.exec(table);
      return [`-${slug(what)}`, bars(`${what} (${how})`, unit, cells(rows, table))];
    }),
  );
}

function backends({ rows }) {
  const [table] = tablesOf(rows);
  const batches = unique(cells(rows, table).map(({ group }) => group.split(' × ')[0]));
  return Object.fromEntries(
    batches.map((batch) => {
      const points = cells(rows, table)
        .filter(({ group }) => group.split(' × ')[0] === batch)
        .map(({ group, ...cell }) => ({ ...cell, x: group.split(' × ')[1] }));
      const title = `Output by attention backend: ${batch} request${batch === '1' ? '' : 's'} at once, as many tokens out as in`;
      return [`-${batch}`, curves(title, 'tok/s', 'tokens in →', points, { colors: BACKEND_COLORS })];
    }),
  );
}

const BACKEND_COLORS = {
  flash: BLUE,
  'flash: mma, packed': BLUES[2],
  'flash: tiled, split': BLUES[1],
  'flash: scalar, warp': BLUES[0],
  'sdpa.math': ORANGE,
};

function compare({ rows }) {
  const rates = rows.filter(({ unit }) => unit === 'tok/s');
  const [table] = tablesOf(rates);
  return { '': bars(table.replace('Output tokens a second, whole', 'Whole'), 'output, tok/s', cells(rates, table)) };
}

function latency({ rows }) {
  const times = (ending) => besides(rows, ending);
  return {
    '-first': bars('Time to the first token, by requests × prompt tokens', 'ms', times(': first token')),
    '-next': bars('Time for each next token, by requests × prompt tokens', 'ms', times(': each next token')),
  };
}

function memory({ rows }) {
  const [table] = tablesOf(rows);
  const points = cells(rows, table)
    .filter(({ series }) => !series.endsWith('all in use'))
    .map(({ group, series, ...cell }) => ({ ...cell, series: MEMORY_NAMES[series], x: group }));
  return {
    '': curves('Temporary memory of a step', 'MiB', 'requests at once × tokens each →', points, {
      colors: { [PAGED]: BLUE, [DENSE]: ORANGE, [FORMULA]: RED },
      formula: FORMULA,
    }),
  };
}
const [PAGED, DENSE, FORMULA] = [
  'flash: paged kernels',
  'sdpa.math: dense gather',
  'the formula for its gather and scores',
];
const MEMORY_NAMES = { flash: PAGED, 'sdpa.math': DENSE, 'its gather and scores, by the formula': FORMULA };

function parallel({ rows, options }) {
  const table = (beginning) =>
    cells(
      rows,
      tablesOf(rows).find((name) => name.startsWith(beginning)),
    );
  const work = `${options.shape}, by requests × prompt tokens`;
  return {
    '-next': bars(`Time for each next token: ${work}`, 'ms', table('Time for each next token')),
    '-communication': bars(`Communication in a decode step: ${work}`, '% of its time', table('Communication')),
  };
}

function serving({ rows }) {
  const variants = tablesOf(rows).map((table) => ({ table, name: /^Serving, prefix (.*): by/.exec(table)[1] }));
  const colors = Object.fromEntries(
    variants.map(({ name }, i) => [name, [BLUE, LIGHT_BLUE, ORANGE, LIGHT_ORANGE][i % 4]]),
  );
  const plot = (title, what) => {
    const points = variants.flatMap(({ table, name }) =>
      cells(rows, table)
        .filter(({ group }) => group === what)
        .map(({ series, value }) => ({ series: name, value, x: series.replace(' req/s', '') })),
    );
    return curves(title, 'ms', 'requests a second that arrive →', points, { colors });
  };
  return {
    '-first': plot('Time to the first token, median', 'first token p50, ms'),
    '-next': plot('Time for each next token: 99 of 100 are faster', 'next token p99, ms'),
  };
}

function soak({ rows }) {
  const [table] = tablesOf(rows);
  if (!table) return {};
  const points = cells(rows, table)
    .filter(({ series }) => ['resident', 'native', "JavaScript's heap"].includes(series))
    .map(({ group, series, value }) => ({ x: Number.parseFloat(group) / 60, series, value }));
  return { '': curves('Memory of the process under mixed load', 'MiB', 'minutes →', points, { log: false }) };
}

function throughput({ rows }) {
  const output = rows.filter(({ what }) => what.startsWith('output of'));
  const title = `Throughput: ${output[0].what}, 100 to 1024 tokens in and out`;
  return { '': bars(title, 'tok/s', besides(output, '')) };
}

/** A millisecond from the middle of a trace. */
function trace(events) {
  const all = events.filter(({ ph }) => ph === 'X').sort((a, b) => a.ts - b.ts);
  const middle = all[Math.floor(all.length / 2)].ts;
  const from = all.findLast(({ name, ts }) => name === 'schedule' && ts <= middle).ts;
  const within = all.filter(({ ts }) => ts >= from && ts < from + TRACE_US);
  const lanes = ['host', 'in a launch', 'device', ' device']; // two steps on the device may overlap
  const steps = within.filter(({ tid }) => tid === 1);
  const laneOf = (span) => {
    if (span.tid === 1) return lanes[2 + (steps.indexOf(span) % 2)];
    return /^launch:|^schedule$|^postprocess$/.test(span.name) ? lanes[0] : lanes[1];
  };
  const spans = within.map((span) => {
    return {
      lane: laneOf(span),
      name: span.name,
      from: span.ts - from,
      to: Math.min(TRACE_US, span.ts - from + span.dur),
    };
  });
  return { '': { draw: timeline, title: 'Decode steps of one sequence, from a trace', unit: 'µs →', lanes, spans } };
}
const TRACE_US = 1000;

const bars = (title, unit, bars) => ({ draw: groupedBars, title, unit, bars });
const curves = (title, unit, xLabel, points, more) => ({ draw: lines, title, unit, xLabel, points, ...more });

const tablesOf = (rows) => unique(rows.flatMap(({ table }) => table ?? []));
const cells = (rows, table) =>
  rows
    .filter((row) => row.table === table)
    .map(({ what, column, value, note }) => ({ group: what, series: column, value, note }));

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

const slug = (text) =>
  text
    .toLowerCase()
    .replace(/ attention|[^a-z0-9]+/g, '-')
    .replace(/-+/g, '-');

mkdirSync(join(folder, 'plots'), { recursive: true });
for (const file of readdirSync(folder).filter((name) => name.endsWith('.json'))) {
  const record = JSON.parse(readFileSync(join(folder, file), 'utf8'));
  const plots = record.traceEvents ? trace(record.traceEvents) : (SUITES[record.suite]?.(record) ?? {});
  for (const [name, { draw, ...chart }] of Object.entries(plots)) {
    if (chart.bars && chart.bars.filter(({ series }) => series !== BOUND).length < 2) continue; // one bar says no more than its number
    const path = join(folder, 'plots', `${basename(file, '.json')}${name}.svg`);
    const about = record.traceEvents ? record.otherData : record;
    writeFileSync(
      path,
      draw({
        ...chart,
        source: [about.device, about.date, about.commit && `commit ${about.commit}`].filter(Boolean).join(', '),
      }),
    );
    console.log(path);
  }
}
