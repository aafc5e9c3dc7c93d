import type { DayChecks } from './format';

export const day2: DayChecks = {
  tasks: ['2.1', '2.2', '2.3', '2.4', '2.5', '2.6'],
  mistakes: [
    [
      // Forgets what was there.
      ['dense.ts', '(accumulate ? ys[at] : 0) + (bs ? y + bs[n] : y)', 'bs ? y + bs[n] : y'],
      // The sum of the squares, not their mean.
      ['dense.ts', 'dot(x, xStart, x, xStart, size) / size + eps', 'dot(x, xStart, x, xStart, size) + eps'],
      // Up is the gate.
      [
        'dense.ts',
        '(xs[i] / (1 + Math.exp(-xs[i]))) * xs[half + i]',
        '(xs[half + i] / (1 + Math.exp(-xs[half + i]))) * xs[i]',
      ],
      // Frequencies half as far apart.
      ['rotary-embedding.ts', 'Math.fround((2 * i) / dim)', 'Math.fround(i / dim)'],
      // Neighbours as pairs.
      [
        'dense.ts',
        `const [a, b] = [xs[start + i], xs[start + half + i]];
      xs[start + i] = a * cos - b * sin;
      xs[start + half + i] = b * cos + a * sin;`,
        `const [a, b] = [xs[start + 2 * i], xs[start + 2 * i + 1]];
      xs[start + 2 * i] = a * cos - b * sin;
      xs[start + 2 * i + 1] = b * cos + a * sin;`,
      ],
      // No norm before attention.
      ['qwen3.ts', 'this.qkvProj.forward(norm.forward(residual))', 'this.qkvProj.forward(residual)'],
    ],
    [
      // As if rows always lay side by side.
      ['dense.ts', 'dot(xs, x.offset + t * x.strides[0], ws', 'dot(xs, t * inputs, ws'],
      // eps after the root.
      [
        'dense.ts',
        '1 / Math.sqrt(dot(x, xStart, x, xStart, size) / size + eps)',
        '1 / (Math.sqrt(dot(x, xStart, x, xStart, size) / size) + eps)',
      ],
      // NaN for large numbers.
      ['dense.ts', 'xs[i] / (1 + Math.exp(-xs[i]))', '(xs[i] * Math.exp(xs[i])) / (1 + Math.exp(xs[i]))'],
      // Cosine beside sine.
      [
        'rotary-embedding.ts',
        'table[p * dim + i] = Math.cos(angle);\n      table[p * dim + half + i] = Math.sin(angle);',
        'table[p * dim + 2 * i] = Math.cos(angle);\n      table[p * dim + 2 * i + 1] = Math.sin(angle);',
      ],
      // Reads what it has just written.
      [
        'dense.ts',
        'xs[start + i] = a * cos - b * sin;\n      xs[start + half + i] = b * cos + a * sin;',
        'xs[start + i] = a * cos - b * sin;\n      xs[start + half + i] = b * cos + xs[start + i] * sin;',
      ],
      // Both blocks read through the same norm.
      [
        'qwen3.ts',
        'this.mlp.forward(residual, this.postAttentionLayernorm)',
        'this.mlp.forward(residual, this.inputLayernorm)',
      ],
    ],
    [
      // The bias of the first output for all.
      ['dense.ts', 'y + bs[n]', 'y + bs[0]'],
      // LayerNorm's first half.
      [
        'dense.ts',
        'out[outStart + i] = x[xStart + i] * scale * weight[i];',
        'out[outStart + i] = (x[xStart + i] - x.subarray(xStart, xStart + size).reduce((a, b) => a + b) / size) * scale * weight[i];',
      ],
      // The sigmoid alone.
      ['dense.ts', '(xs[i] / (1 + Math.exp(-xs[i])))', '(1 / (1 + Math.exp(-xs[i])))'],
      // theta to a positive power: the later pairs turn faster.
      ['rotary-embedding.ts', '1 / Math.fround(theta', '1 * Math.fround(theta'],
      // The place in the batch for the position in the text.
      ['dense.ts', 'const angles = row(cosSin, position);', 'const angles = row(cosSin, t);'],
      // Temporaries of all layers at once.
      [
        'qwen3.ts',
        'this.ops.scope(() => this.selfAttn.forward(positions, residual, this.inputLayernorm, context));',
        'this.selfAttn.forward(positions, residual, this.inputLayernorm, context);',
      ],
    ],
    [
      // Writes as if `out` were not a part of something wider.
      ['dense.ts', 'out.offset + t * out.strides[0] + n', 't * outputs + n'],
      // Every head is the first.
      ['dense.ts', '(x.rank === 3 ? h * x.strides[1] : 0);\n      const yStart', '0;\n      const yStart'],
      // Only the first row.
      ['dense.ts', 'const [ys, xs] = [row(out, t), row(x, t)];', 'const [ys, xs] = [row(out, 0), row(x, 0)];'],
      // Positions from 1.
      ['rotary-embedding.ts', 'Math.fround(p * frequencies[i])', 'Math.fround((p + 1) * frequencies[i])'],
      // Keys stay as they were.
      ['dense.ts', 'for (const x of [q, k]) rotateToken(x, t, angles);', 'rotateToken(q, t, angles);'],
      // Values cut from where the keys are.
      ['qwen3.ts', 'qkv.columns((heads + kvHeads) * headDim,', 'qkv.columns(heads * headDim,'],
    ],
  ],
  alternatives: [
    // Tokens outside, one plain sum.
    [
      'dense.ts',
      `  for (let n = 0; n < outputs; n++) {
    const wStart = weight.offset + n * weight.strides[0];
    for (let t = 0; t < tokens; t++) {
      const y = dot(xs, x.offset + t * x.strides[0], ws, wStart, inputs);
      const at = out.offset + t * out.strides[0] + n;
      ys[at] = (accumulate ? ys[at] : 0) + (bs ? y + bs[n] : y);
    }
  }`,
      `  for (let t = 0; t < tokens; t++) {
    const source = row(x, t);
    for (let n = 0; n < outputs; n++) {
      let y = bs ? bs[n] : 0;
      for (let i = 0; i < inputs; i++) y += source[i] * ws[weight.offset + n * weight.strides[0] + i];
      const at = out.offset + t * out.strides[0] + n;
      if (accumulate) ys[at] += y;
      else ys[at] = y;
    }
  }`,
    ],
    // Divides, and adds the squares up itself.
    [
      'dense.ts',
      `  const scale = 1 / Math.sqrt(dot(x, xStart, x, xStart, size) / size + eps);
  for (let i = 0; i < size; i++) out[outStart + i] = x[xStart + i] * scale * weight[i];`,
      `  const values = x.slice(xStart, xStart + size);
  const rms = Math.sqrt(values.reduce((total, value) => total + value ** 2, 0) / size + eps);
  out.set(values.map((value, i) => (value / rms) * weight[i]), outStart);`,
    ],
    // One loop over all rows.
    [
      'dense.ts',
      `  for (let t = 0; t < x.shape[0]; t++) {
    for (let h = 0; h < heads; h++) {
      const xStart = x.offset + t * x.strides[0] + (x.rank === 3 ? h * x.strides[1] : 0);
      const yStart = out.offset + t * out.strides[0] + (x.rank === 3 ? h * out.strides[1] : 0);
      normalizeRow(ys, yStart, xs, xStart, gain, eps);
    }
  }`,
      `  const start = (tensor: Tensor, r: number): number =>
    tensor.offset + Math.floor(r / heads) * tensor.strides[0] + (r % heads) * gain.length;
  for (let r = 0; r < x.shape[0] * heads; r++) normalizeRow(ys, start(out, r), xs, start(x, r), gain, eps);`,
    ],
    // The sigmoid, twice one-sided.
    [
      'dense.ts',
      'ys[i] = (xs[i] / (1 + Math.exp(-xs[i]))) * xs[half + i];',
      `{
      const small = Math.exp(-Math.abs(xs[i]));
      ys[i] = xs[half + i] * xs[i] * (xs[i] < 0 ? small / (1 + small) : 1 / (1 + small));
    }`,
    ],
    // Column by column, never rounded.
    [
      'rotary-embedding.ts',
      `  for (let p = 0; p < positions; p++) {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(p * frequencies[i]);
      table[p * dim + i] = Math.cos(angle);
      table[p * dim + half + i] = Math.sin(angle);
    }
  }`,
      `  for (let i = 0; i < frequencies.length; i++) {
    for (let p = 0; p < positions; p++) {
      table[p * dim + i] = Math.cos(p * Math.exp((-2 * i * Math.log(theta)) / dim));
      table[p * dim + half + i] = Math.sin(p * Math.exp((-2 * i * Math.log(theta)) / dim));
    }
  }`,
    ],
    // Keys first; a copy of the head instead of two numbers.
    [
      'dense.ts',
      'for (const x of [q, k]) rotateToken(x, t, angles);',
      'rotateToken(k, t, angles);\n    rotateToken(q, t, angles);',
    ],
    [
      'dense.ts',
      `    for (let i = 0; i < half; i++) {
      const [cos, sin] = [cosSin[i], cosSin[half + i]];
      const [a, b] = [xs[start + i], xs[start + half + i]];
      xs[start + i] = a * cos - b * sin;
      xs[start + half + i] = b * cos + a * sin;
    }`,
      `    const old = xs.slice(start, start + dim);
    for (let i = 0; i < dim; i++) {
      const other = i < half ? -old[i + half] : old[i - half];
      xs[start + i] = old[i] * cosSin[i % half] + other * cosSin[half + (i % half)];
    }`,
    ],
    // The norm on a line of its own; one scope for both blocks.
    [
      'qwen3.ts',
      'const gated = this.gateUpProj.forward(norm.forward(residual), { siluAndMul: true });',
      'const normed = norm.forward(residual);\n    const gated = this.gateUpProj.forward(normed, { siluAndMul: true });',
    ],
    [
      'qwen3.ts',
      `    this.ops.scope(() => this.selfAttn.forward(positions, residual, this.inputLayernorm, context));
    this.ops.scope(() => this.mlp.forward(residual, this.postAttentionLayernorm));`,
      `    this.ops.scope(() => {
      this.selfAttn.forward(positions, residual, this.inputLayernorm, context);
      this.mlp.forward(residual, this.postAttentionLayernorm);
    });`,
    ],
    [
      'qwen3.ts',
      'for (const layer of this.layers) layer.forward(positions, residual, context);',
      'this.layers.forEach((layer) => layer.forward(positions, residual, context));',
    ],
  ],
};
