import type { DayChecks } from './format';

export const day6: DayChecks = {
  tasks: ['6.1', '6.2', '6.3', '6.4', '6.5', '6.6'],
  mistakes: [
    [
      // The second barrier is missing: a fast rank overwrites what a slow one still reads.
      ['local-group.ts', 'use(piece, start);\n      this.barrier();', 'use(piece, start);'],
      // Each rank would load the whole bias.
      ['linear.ts', 'tensor: this.bias, ...place }', 'tensor: this.bias, firstRow }'],
      ['linear.ts', 'this.ops.allReduce(residual);', ''],
      ['embed-head.ts', 'isWhole ? null : this.shard.first', 'isWhole ? null : 0'],
      // Alive for ever after a failure.
      [
        'recording.ts',
        `    try {
      return body();
    } finally {
      for (const storage of this.storages) storage.alive = false;
    }`,
        `    const result = body();
    for (const storage of this.storages) storage.alive = false;
    return result;`,
      ],
      // A step that is smaller than the batch.
      ['decode-graph.ts', 'this.sizes.find((size) => size >= count)', 'this.sizes.findLast((size) => size <= count)'],
    ],
    [
      // Every rank begins with its own numbers.
      [
        'local-group.ts',
        `      sum.set(this.slots[0].subarray(0, piece.numel));
      for (const slot of this.slots.slice(1)) {`,
        `      sum.set(this.slots[this.rank].subarray(0, piece.numel));
      for (const slot of this.slots.filter((_, r) => r !== this.rank)) {`,
      ],
      // The key/value head of another rank's queries.
      [
        'linear.ts',
        'kvHeadShard(numKeyValueHeads, place)]',
        '{ ...kvHeadShard(numKeyValueHeads, place), first: place.rank % numKeyValueHeads }]',
      ],
      // The residual of every rank.
      [
        'linear.ts',
        'if (this.ops.group.rank === 0) this.ops.linear(x, this.weight, { bias: this.bias, addTo: residual });',
        'if (this.ops.group.rank >= 0) this.ops.linear(x, this.weight, { bias: this.bias, addTo: residual });',
      ],
      // Rows that only fill up the last shard become tokens.
      [
        'embed-head.ts',
        'allGatherColumns(own, this.vocabSize)',
        'allGatherColumns(own, this.weight.shape[0] * this.ops.group.worldSize)',
      ],
      [
        'recording.ts',
        'if (this.graph) this.graph.launch();\n      else this.makeCalls(backend);',
        'this.makeCalls(backend);',
      ],
      // Padding that writes into slot 0 of block 0, and into token slot 0.
      [
        'decode-graph.ts',
        'inputs.write(seqs);\n    return recording',
        `const nobody = { ...seqs[0], numTokens: 1, blockTable: [0], tokenSlot: 0 };
    inputs.write([...seqs, ...Array.from({ length: inputs.rows - seqs.length }, () => nobody)]);
    return recording`,
      ],
    ],
    [
      // The first barrier is missing: slots are read before they are filled.
      ['local-group.ts', 'this.barrier();\n      use(piece, start);', 'use(piece, start);'],
      // Places in the checkpoint's stack instead of the rank's own.
      ['linear.ts', 'firstRow += rows.count;', 'firstRow += outputs;'],
      // The bias of every rank.
      ['linear.ts', '{ out: residual }', '{ bias: this.bias, out: residual }'],
      // Rank after rank instead of row after row.
      [
        'embed-head.ts',
        'return this.ops.allGatherColumns(own, this.vocabSize);',
        `const { worldSize } = this.ops.group;
    if (worldSize === 1) return own;
    const all = this.ops.empty([worldSize, ...own.shape], 'float32');
    this.ops.group.allGather(all, own);
    return new (own.constructor as new (...args: unknown[]) => Tensor)(all.storage, [own.shape[0], this.vocabSize], 'float32');`,
      ],
      // The result is used when its memory is given back.
      [
        'recording.ts',
        `      this.onReplay();
      return use(this.result);
    });`,
        `      this.onReplay();
    }) ?? use(this.result);`,
      ],
      // A number of the host that is captured: the longest context of the moment.
      [
        'decode-graph.ts',
        'this.ops.record(() => this.step(inputs, this.limits.maxModelLen))',
        '(longest => this.ops.record(() => this.step(inputs, longest)))(Math.max(1, ...inputs.contextLens.host))',
      ],
    ],
    [
      // Only right where a piece is the whole.
      ['local-group.ts', 'r * x.numel + start', 'r * numel + start'],
      // Heads taken for rows.
      [
        'linear.ts',
        'rows: { first: first * headDim, count: count * headDim }',
        'rows: { first, count: count * headDim }',
      ],
      // The first columns for every rank.
      ['linear.ts', 'firstRow: 0, columns }', 'firstRow: 0, columns: { ...columns, first: 0 } }'],
      ['embed-head.ts', 'this.ops.allReduce(rows);', ''],
      // Captured with dead temporaries.
      [
        'recording.ts',
        'this.whileAlive(() => backend.captureGraph?.(() => this.makeCalls(backend)))',
        'backend.captureGraph?.(() => this.makeCalls(backend))',
      ],
      // Whatever the inputs held is computed once more when the step is captured.
      ['decode-graph.ts', 'inputs.write([]);', ''],
    ],
    [
      // The rest behind the last full slot is forgotten.
      ['local-group.ts', 'start < x.numel; start += SLOT', 'start === 0 || start + SLOT <= x.numel; start += SLOT'],
      // A share of the stack instead of a share of each projection.
      [
        'linear.ts',
        'return projections.map((projection) => ({ ...projection, rows: shardOf(projection.outputs, place) }));',
        `const { first, count } = shardOf(projections.reduce((sum, { outputs }) => sum + outputs, 0), place);
  let before = 0;
  return projections.map((projection) => {
    const [from, to] = [Math.max(first - before, 0), Math.min(first + count - before, projection.outputs)];
    before += projection.outputs;
    return { ...projection, rows: { first: Math.min(from, projection.outputs), count: Math.max(0, to - from) } };
  });`,
      ],
      // Nobody adds the residual.
      ['linear.ts', '{ bias: this.bias, addTo: residual }', '{ bias: this.bias, out: residual }'],
      // Ties of close rivals, in 16 bits.
      ['embed-head.ts', "this.weight.shape[0]], 'float32')", 'this.weight.shape[0]])'],
      ['recording.ts', 'this.onReplay();', ''],
      // The largest size twice, and sizes that are too large.
      ['decode-graph.ts', '[...sizes.filter((size) => size < most), most]', '[...sizes, most]'],
    ],
  ],
  alternatives: [
    // Pieces counted, and copied straight into the slot.
    [
      'local-group.ts',
      `    for (let start = 0; start < x.numel; start += SLOT) {
      const piece = part(x, start, Math.min(SLOT, x.numel - start));
      const values = this.staging.subarray(0, piece.numel);
      this.memory.copyOut(piece, values);
      this.slots[this.rank].set(values);
      this.barrier();
      use(piece, start);
      this.barrier();
    }`,
      `    const pieces = Math.ceil(x.numel / SLOT);
    for (let p = 0; p < pieces; p++) {
      const [start, end] = [p * SLOT, p === pieces - 1 ? x.numel : (p + 1) * SLOT];
      const piece = part(x, start, end - start);
      this.memory.copyOut(piece, this.slots[this.rank].subarray(0, end - start));
      this.arrivals.wait();
      use(piece, start);
      this.arrivals.wait();
    }`,
    ],
    // Number by number, the ranks backwards, in double precision.
    [
      'local-group.ts',
      `      const sum = this.staging.subarray(0, piece.numel);
      sum.set(this.slots[0].subarray(0, piece.numel));
      for (const slot of this.slots.slice(1)) {
        for (let i = 0; i < sum.length; i++) sum[i] += slot[i];
      }
      this.memory.write(piece, sum);`,
      `      const sums = Array.from({ length: piece.numel }, (_, i) => this.slots.reduceRight((sum, slot) => sum + slot[i], 0));
      this.memory.write(piece, Float32Array.from(sums));`,
    ],
    [
      'local-group.ts',
      'this.slots.forEach((slot, r) => this.memory.write(part(out, r * x.numel + start, numel), slot.slice(0, numel)));',
      `for (let r = this.worldSize - 1; r >= 0; r--) {
        const place = part(part(out, r * x.numel, x.numel), start, numel);
        this.memory.write(place, this.slots[r].subarray(0, numel));
      }`,
    ],
    // All weights, then all biases.
    [
      'linear.ts',
      `    const parameters: Parameter[] = [];
    let firstRow = 0;
    for (const { name, outputs, rows } of this.projections) {
      const place = { firstRow, rows };
      parameters.push({ name: \`\${name}.weight\`, shape: [outputs, this.inputs], tensor: this.weight, ...place });
      if (this.bias) parameters.push({ name: \`\${name}.bias\`, shape: [outputs], tensor: this.bias, ...place });
      firstRow += rows.count;
    }
    return parameters;`,
      `    const { weight, bias, inputs } = this;
    const before = (i: number) => this.projections.slice(0, i).reduce((sum, { rows }) => sum + rows.count, 0);
    const of = (tensor: Tensor, what: string, ...further: number[]): Parameter[] =>
      this.projections.map(({ name, outputs, rows }, i) => {
        return { name: name + what, shape: [outputs, ...further], tensor, firstRow: before(i), rows };
      });
    return [...of(weight, '.weight', inputs), ...(bias ? of(bias, '.bias') : [])];`,
    ],
    [
      'linear.ts',
      'return projections.map((projection) => ({ ...projection, rows: shardOf(projection.outputs, place) }));',
      `return projections.map(({ name, outputs }) => {
    const count = outputs / place.worldSize;
    return { name, outputs, rows: { first: place.rank * count, count } };
  });`,
    ],
    [
      'linear.ts',
      `  const projection = (letter: string, total: number, { first, count }: Shard) => ({
    name: \`\${name}.\${letter}_proj\`,
    outputs: total * headDim,
    rows: { first: first * headDim, count: count * headDim },
  });
  const [q, kv] = [shardOf(numAttentionHeads, place), kvHeadShard(numKeyValueHeads, place)];
  return [projection('q', numAttentionHeads, q), ...['k', 'v'].map((x) => projection(x, numKeyValueHeads, kv))];`,
      `  // By hand: the query heads, then the one or more heads that they read.
  const queries = numAttentionHeads / place.worldSize;
  const group = numAttentionHeads / numKeyValueHeads;
  const firstKey = Math.floor((place.rank * queries) / group);
  const keys = Math.max(1, numKeyValueHeads / place.worldSize);
  const rows = { first: firstKey * headDim, count: keys * headDim };
  return [
    {
      name: \`\${name}.q_proj\`,
      outputs: numAttentionHeads * headDim,
      rows: { first: place.rank * queries * headDim, count: queries * headDim },
    },
    { name: \`\${name}.k_proj\`, outputs: numKeyValueHeads * headDim, rows },
    { name: \`\${name}.v_proj\`, outputs: numKeyValueHeads * headDim, rows },
  ];`,
    ],
    // The last rank adds the residual, the first the bias.
    [
      'linear.ts',
      `    if (this.ops.group.rank === 0) this.ops.linear(x, this.weight, { bias: this.bias, addTo: residual });
    else this.ops.linear(x, this.weight, { out: residual });
    this.ops.allReduce(residual);`,
      `    const { rank, worldSize } = this.ops.group;
    const bias = rank === 0 ? this.bias : null;
    this.ops.linear(x, this.weight, rank === worldSize - 1 ? { bias, addTo: residual } : { bias, out: residual });
    this.ops.allReduce(residual);`,
    ],
    [
      'linear.ts',
      `    const parameters: Parameter[] = [{ name: \`\${name}.weight\`, shape, tensor: weight, firstRow: 0, columns }];
    if (bias) parameters.push({ name: \`\${name}.bias\`, shape: [outputs], tensor: bias, firstRow: 0 });
    return parameters;`,
      `    const all = { first: 0, count: outputs };
    const product: Parameter = { name: \`\${name}.weight\`, shape, tensor: weight, firstRow: 0, rows: all, columns };
    return bias ? [{ name: \`\${name}.bias\`, shape: [outputs], tensor: bias, firstRow: 0, rows: all }, product] : [product];`,
    ],
    [
      'embed-head.ts',
      `    const isWhole = this.ops.group.worldSize === 1;
    const rows = this.ops.embedding(ids, this.weight, isWhole ? null : this.shard.first);
    this.ops.allReduce(rows);
    return rows;`,
      `    if (this.ops.group.worldSize === 1) return this.ops.embedding(ids, this.weight);
    const rows = this.ops.embedding(ids, this.weight, this.shard.first);
    this.ops.allReduce(rows);
    return rows;`,
    ],
    [
      'embed-head.ts',
      `    const own = this.ops.empty([hidden.shape[0], this.weight.shape[0]], 'float32');
    this.ops.linear(hidden, this.weight, { out: own });
    return`,
      `    const out = this.ops.empty([hidden.shape[0], this.shard.padded], 'float32');
    const own = this.ops.linear(hidden, this.weight, { out });
    return`,
    ],
    [
      'recording.ts',
      'this.graph = this.whileAlive(() => backend.captureGraph?.(() => this.makeCalls(backend)));',
      `if (!backend.captureGraph) return;
    this.storages.forEach((storage) => (storage.alive = true));
    this.graph = backend.captureGraph(() => this.calls.forEach((call) => call(backend)));
    this.storages.forEach((storage) => (storage.alive = false));`,
    ],
    [
      'recording.ts',
      `    return this.whileAlive(() => {
      if (this.graph) this.graph.launch();
      else this.makeCalls(backend);
      this.onReplay();
      return use(this.result);
    });`,
      `    const step = this.graph ? () => this.graph?.launch() : () => this.makeCalls(backend);
    const used = this.whileAlive(() => {
      step();
      return use(this.result);
    });
    this.onReplay();
    return used;`,
    ],
    [
      'recording.ts',
      `    for (const storage of this.storages) storage.alive = true;
    try {
      return body();
    } finally {
      for (const storage of this.storages) storage.alive = false;
    }`,
      `    const setAll = (alive: boolean) => this.storages.forEach((storage) => Object.assign(storage, { alive }));
    setAll(true);
    let result: R;
    try {
      result = body();
    } catch (error) {
      setAll(false);
      throw error;
    }
    setAll(false);
    return result;`,
    ],
    [
      'decode-graph.ts',
      `    const { inputs, recording } = this.capturedFor(this.rowsFor(seqs.length));
    inputs.write(seqs);
    return recording.replay(this.ops.backend, use);`,
      `    const captured = this.capturedFor(this.rowsFor(seqs.length));
    captured.inputs.write(seqs);
    const { backend } = this.ops;
    return captured.recording.replay(backend, (output) => use(output));`,
    ],
    [
      'decode-graph.ts',
      'return this.mode.pad || this.hasDeviceGraphs ? (this.sizes.find((size) => size >= count) ?? count) : count;',
      `if (!this.mode.pad && !this.hasDeviceGraphs) return count;
    let i = 0;
    while (this.sizes[i] < count) i++;
    return this.sizes[i];`,
    ],
    [
      'decode-graph.ts',
      `    inputs.write([]);
    return { inputs, recording: this.ops.record(() => this.step(inputs, this.limits.maxModelLen)) };`,
      `    const { maxModelLen } = this.limits;
    inputs.write([]);
    const recording = this.ops.record(() => {
      return this.step(inputs, maxModelLen);
    });
    return { recording, inputs };`,
    ],
    [
      'decode-graph.ts',
      `  const sizes = [1, 2, 4, 8];
  for (let size = 16; size < most; size += 16) sizes.push(size);
  return [...sizes.filter((size) => size < most), most];`,
      `  const isSize = (n: number) => n === most || n % 16 === 0 || [1, 2, 4, 8].includes(n);
  return Array.from({ length: most }, (_, i) => i + 1).filter(isSize);`,
    ],
  ],
};
