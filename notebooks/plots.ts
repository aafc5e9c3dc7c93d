// What the notebooks draw with: Observable Plot, on a page that exists only in memory.
import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';

const { document } = parseHTML('<html></html>');

/** A plot as SVG text, on white paper: notebooks are read on light and on dark pages. */
export function draw(options: Plot.PlotOptions): string {
  const style = { background: 'white', color: '#1a1a1a', fontSize: '12px', fontFamily: 'Helvetica, Arial, sans-serif' };
  const page = document as unknown as Plot.PlotOptions['document'];
  const plot = Plot.plot({ marginTop: 30, marginBottom: 45, ...options, document: page, style });
  plot.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
  return plot.outerHTML;
}

export { Plot };
