// How figures are drawn: as SVG texts that can be read on light and on dark pages.
import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';

const { document } = parseHTML('<html></html>');

/** The series that is not measured here: what the hardware allows. */
export const BOUND = 'bound';
/** This engine's series, the better the darker; those of others; and what no engine can beat. */
export const BLUES = ['#cfe0f3', '#93b9e1', '#4f8acb', '#1f5a9e'];
export const ORANGES = ['#f0b27a', '#c9772f'];
export const RED = '#b3261e';
const [INK, PAPER, GREY] = ['#1a1a1a', 'white', '#666'];
const MANY = 60;
const FRAME = {
  document,
  height: 360,
  marginTop: 96,
  marginBottom: 56,
  marginLeft: 56,
  style: { background: PAPER, color: INK, fontSize: '12px', fontFamily: 'Helvetica, Arial, sans-serif' },
};

/**
 * Bars side by side for each group, and the hardware's bound as a line over them.
 * @param {{ title: string, unit: string, source: string, bars: { group: string, series: string, value: number | null }[] }} chart
 */
export function groupedBars({ title, unit, bars, source }) {
  const groups = unique(bars.map(({ group }) => group));
  const series = unique(bars.map((bar) => bar.series)).filter((name) => name !== BOUND);
  const colors = colorsOf(series);
  const drawn = bars.filter(({ series, value }) => series !== BOUND && value !== null);
  const bounds = bars.filter((bar) => bar.series === BOUND);
  const plot = Plot.plot({
    ...FRAME,
    width: Math.max(560, 90 + groups.length * (series.length * 30 + 28)),
    fx: { domain: groups, label: null, padding: 0.12, axis: groups.length > 1 ? 'bottom' : null },
    x: { domain: series, axis: null, padding: 0.08 },
    y: { label: null, grid: true, nice: true, zero: true },
    color: { domain: series, range: colors },
    marks: [
      Plot.barY(drawn, { fx: 'group', x: 'series', y: 'value', fill: 'series' }),
      Plot.ruleY(bounds, { fx: 'group', y: 'value', stroke: RED, strokeWidth: 2, strokeDasharray: '5 3' }),
      Plot.text(drawn, {
        ...{ fx: 'group', x: 'series', y: 'value', text: ({ value }) => short(value) },
        ...{ dy: -8, fontSize: 10, fill: INK, stroke: PAPER, strokeWidth: 4 },
      }),
      Plot.ruleY([0]),
    ],
  });
  const labels = series.map((name, i) => ({ name, color: colors[i] }));
  if (bounds.length > 0) labels.push({ name: 'what the hardware allows', color: RED, dashed: true });
  return withTexts(plot, { title, unit, source, labels });
}

/**
 * A line for each series, dashed for the one that is a `formula`. What has a note has an empty circle; where there is no value, the note
 * stands at the bottom. Many points are a line without circles.
 * @param {{ title: string, unit: string, source: string, xLabel: string, log?: boolean, colors?: Record<string, string>, formula?: string,
 *   points: { x: string | number, series: string, value: number | null, note?: string }[] }} chart
 */
export function lines({ title, unit, points, source, xLabel, log = true, colors: own, formula }) {
  const series = unique(points.map((point) => point.series));
  const colors = own ? series.map((name) => own[name]) : colorsOf(series);
  const known = points.filter(({ value }) => value !== null);
  const missing = points.filter(({ value }) => value === null);
  const isPart = ({ note }) => note !== undefined;
  const [isOurs, isFormula] = [({ series }) => series !== formula, ({ series }) => series === formula];
  const domain = unique(points.map(({ x }) => x));
  const plot = Plot.plot({
    ...FRAME,
    width: Math.max(720, 20 + legendWidth(series)),
    marginRight: 24,
    marginBottom: 72,
    x: {
      label: xLabel,
      labelOffset: 34,
      ...(typeof domain[0] !== 'number' && { type: 'point', domain, padding: 0.3 }),
    },
    y: { label: null, grid: true, nice: true, ...(log ? { type: 'log', tickFormat: '~s' } : { zero: true }) },
    color: { domain: series, range: colors },
    marks: [
      Plot.line(known.filter(isOurs), { x: 'x', y: 'value', stroke: 'series', strokeWidth: 2 }),
      Plot.line(known.filter(isFormula), {
        x: 'x',
        y: 'value',
        stroke: 'series',
        strokeWidth: 2,
        strokeDasharray: '5 3',
      }),
      Plot.dot(known.length > MANY ? [] : known.filter(isOurs), {
        ...{ x: 'x', y: 'value', stroke: 'series', r: 4 },
        fill: (point) => (isPart(point) ? PAPER : colors[series.indexOf(point.series)]),
      }),
      Plot.text(missing, { x: 'x', frameAnchor: 'bottom', text: 'note', fill: 'series', dy: -6, fontWeight: 'bold' }),
    ],
  });
  const labels = series.map((name, i) => ({ name, color: colors[i], dashed: name === formula }));
  const cut = unique(known.filter(isPart).map(({ note }) => note));
  return withTexts(plot, {
    title,
    unit: cut.length > 0 ? `${unit}; empty circles: ${cut.join(', ')}` : unit,
    source,
    labels,
  });
}

/**
 * What happened when: spans in lanes.
 * @param {{ title: string, unit: string, source: string, lanes: string[], spans: { lane: string, name: string, from: number, to: number }[] }} chart
 *   `from` and `to` in the unit.
 */
export function timeline({ title, unit, lanes, spans, source }) {
  const names = unique(spans.map(({ name }) => name));
  const palette = [BLUES[3], ORANGES[1], BLUES[2], '#5b8c5a', BLUES[1], ORANGES[0], '#8a6fb0'];
  const colors = names.map((_, i) => palette[i % palette.length]);
  const plot = Plot.plot({
    ...FRAME,
    width: 900,
    height: 150 + 40 * lanes.length,
    marginLeft: 110,
    marginBottom: 72,
    x: { label: unit, labelOffset: 34, grid: true },
    y: { type: 'band', domain: lanes, label: null, padding: 0.25 },
    color: { domain: names, range: colors },
    marks: [Plot.barX(spans, { x1: 'from', x2: 'to', y: 'lane', fill: 'name', inset: 0.3, rx: 1 })],
  });
  return withTexts(plot, { title, unit: '', source, labels: names.map((name, i) => ({ name, color: colors[i] })) });
}

/** This engine's in blues, the better the darker; others in oranges. */
function colorsOf(series) {
  const isPeer = (name) => /PyTorch|Triton|nano-vllm$|transformers|sdpa/.test(name);
  const own = series.filter((name) => !isPeer(name));
  const peers = series.filter(isPeer);
  return series.map((name) => (isPeer(name) ? ORANGES[peers.indexOf(name)] : BLUES.at(own.indexOf(name) - own.length)));
}

/** The SVG with title, legend, unit and source. */
function withTexts(plot, { title, unit, source, labels }) {
  plot.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
  const bottom = Number(plot.getAttribute('height')) - 12;
  const texts = `<g text-anchor="start"><text x="14" y="24" font-size="15" font-weight="bold" fill="${INK}">${xml(title)}</text>
    ${legend(labels)}
    <text x="14" y="${bottom}" font-size="10" fill="${GREY}">${xml(source)}</text>
    <text x="14" y="76" fill="${GREY}">${xml(unit)}</text></g>`;
  return `${plot.outerHTML.replace(/<\/svg>$/, `${texts}</svg>`)}\n`;
}

function legend(labels) {
  let x = 14;
  return labels
    .map(({ name, color, dashed }) => {
      const mark = dashed
        ? `<line x1="${x}" x2="${x + 16}" y1="47" y2="47" stroke="${color}" stroke-width="2" stroke-dasharray="5 3"/>`
        : `<rect x="${x}" y="41" width="12" height="12" fill="${color}"/>`;
      const text = `<text x="${x + 20}" y="51" fill="${INK}">${xml(name)}</text>`;
      x += widthOf(name);
      return mark + text;
    })
    .join('');
}

const widthOf = (name) => 40 + 6.4 * name.length;
const legendWidth = (names) => names.reduce((sum, name) => sum + widthOf(name), 0);

export const unique = (values) => [...new Set(values)];
const short = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toPrecision(2));
const xml = (text) => text.replace(/&/g, '&amp;').replace(/</g, '&lt;');
