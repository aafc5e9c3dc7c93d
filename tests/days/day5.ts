import type { DayChecks } from './format';

export const day5: DayChecks = {
  tasks: ['5.1', '5.2', '5.3', '5.4', '5.5', '5.6'],
  mistakes: [
    [
      // Greedy ties go to the highest id.
      ['sample.ts', 'if (logits[id] > bestLogit)', 'if (logits[id] >= bestLogit)'],
      // Top-p drops the token that crosses the threshold.
      ['sample.ts', 'kept.slice(0, crossing + 1)', 'kept.slice(0, Math.max(1, crossing))'],
      // The prompt's length is in the position.
      ['sampler.ts', 'seqs[b].numOutputTokens;', 'seqs[b].numTokens;'],
      // A stop string is found within one piece of text only.
      ['stop-checker.ts', 'this.held.length - this.possibleStart();', 'this.held.length;'],
      // Text that was held back never comes out.
      ['llm-engine.ts', 'if (seq.isFinished && !request.isStopped) text += request.flush();', ''],
      // A failed step leaves its blocks allocated.
      [
        'llm-engine.ts',
        "if (!request) return [];\n      this.scheduler.finish(seq, 'abort');",
        'if (!request) return [];',
      ],
    ],
    [
      // The noise belongs to a place in the list, not to the token.
      ['sample.ts', '/ temperature + noise(id);', '/ temperature + noise(allowed.indexOf(id));'],
      // Top-k keeps all that are equal to the last.
      [
        'sample.ts',
        'kept = kept.slice(0, topK);',
        'kept = kept.filter((id) => logits[id] >= logits[kept[Math.min(topK, kept.length) - 1]]);',
      ],
      // Bit operators see 32 bits.
      ['sampler.ts', 'Math.floor(seed / 2 ** 32)', 'seed >> 32'],
      // The first stop string of the list wins, not the first in the text.
      ['stop-checker.ts', 'first === undefined || end < first.end;', 'first === undefined;'],
      // All sequences of the step get an update, though some drew no token.
      ['llm-engine.ts', 'return advanced.flatMap((i) => {', 'return seqs.flatMap((_, i) => {'],
      // A failed step ends all requests.
      ['llm-engine.ts', 'return batch.seqs.flatMap((seq) => {', 'return [...this.requests.keys()].flatMap((seq) => {'],
    ],
    [
      // The temperature divides the noise too, and so does nothing but shrink the scores.
      ['sample.ts', '= logits[id] / temperature + noise(id);', '= (logits[id] + noise(id)) / temperature;'],
      // The temperature is applied to the probability.
      ['sample.ts', 'Math.exp((logits[id] - largest) / temperature)', 'Math.exp(logits[id] - largest) / temperature'],
      // Padding keeps the temperature of an earlier step.
      ['sampler.ts', 'values.temperature.fill(0, seqs.length);', ''],
      // Held back only if nothing else is held with it.
      ['stop-checker.ts', 'if (this.held.endsWith(stop.slice(0, length)))', 'if (this.held === stop.slice(0, length))'],
      // Waits for the youngest step.
      ['llm-engine.ts', 'const [oldest] = this.inFlight;', 'const oldest = this.inFlight.at(-1);'],
      // An aborted request stays, and can be aborted again.
      ['llm-engine.ts', 'this.requests.delete(seq);\n      this.endedOtherwise', 'this.endedOtherwise'],
    ],
    [
      // A score is believed to be positive.
      ['sample.ts', 'let bestScore = -Infinity;', 'let bestScore = 0;'],
      // Top-p of the whole probability, not of what the filters before it left.
      ['sample.ts', 'const total = kept.reduce(', 'const total = all.reduce('],
      // Seed 0 counts as none.
      ['sampler.ts', 'seed !== undefined ?', 'seed ?'],
      // The stop string stays in the text.
      ['stop-checker.ts', 'match.end - (this.includeStop ? 0 : match.stop.length)', 'match.end'],
      // The updates of aborted requests are lost.
      [
        'llm-engine.ts',
        'const updates = this.endedOtherwise.splice(0);',
        'const updates: RequestUpdate[] = [];\n    this.endedOtherwise = [];',
      ],
      // The text that was held back is lost with an abort.
      ['llm-engine.ts', 'request.update(request.flush(), [])', "request.update('', [])"],
    ],
  ],
  alternatives: [
    [
      'sample.ts',
      `  let best = 0;
  let bestLogit = -Infinity;
  for (let id = 0; id < logits.length; id++) {
    if (logits[id] > bestLogit) [best, bestLogit] = [id, logits[id]];
  }
  return best;`,
      '  return logits.indexOf(Math.max(...logits));',
    ],
    [
      'sample.ts',
      `  let best = allowed[0];
  let bestScore = -Infinity;
  for (const id of allowed) {
    const score = logits[id] / temperature + noise(id);
    if (score > bestScore) [best, bestScore] = [id, score];
  }
  return best;`,
      `  const scores = [...allowed].reverse().map((id) => ({ id, score: noise(id) + logits[id] * (1 / temperature) }));
  return scores.sort((a, b) => b.score - a.score || a.id - b.id)[0].id;`,
    ],
    [
      'sample.ts',
      `  let kept = all.filter((id) => weight(id) >= minP);
  kept.sort((a, b) => logits[b] - logits[a] || a - b);
  if (topK > 0) kept = kept.slice(0, topK);
  if (topP < 1) {
    const total = kept.reduce((sum, id) => sum + weight(id), 0);
    let mass = 0;
    const crossing = kept.findIndex((id) => (mass += weight(id)) >= topP * total);
    if (crossing >= 0) kept = kept.slice(0, crossing + 1);
  }
  return kept.sort((a, b) => a - b);`,
      // Real probabilities; top-k before min-p, which comes to the same; top-p from the other end.
      `  const sum = all.reduce((total, id) => total + weight(id), 0);
  const tokens = all.map((id) => ({ id, p: weight(id) / sum })).sort((a, b) => b.p - a.p || a.id - b.id);
  tokens.length = Math.min(tokens.length, topK || tokens.length);
  while (tokens[tokens.length - 1].p < minP * tokens[0].p) tokens.pop();
  let left = tokens.reduce((total, { p }) => total + p, 0);
  const wanted = topP * left;
  while (topP < 1 && tokens.length > 1 && left - tokens[tokens.length - 1].p >= wanted) left -= tokens.pop()!.p;
  const ids = new Set(tokens.map(({ id }) => id));
  return all.filter((id) => ids.has(id));`,
    ],
    [
      'sampler.ts',
      `    for (let b = 0; b < seqs.length; b++) {
      const { temperature, topK, topP, minP } = seqs[b].samplingParams;
      values.temperature[b] = temperature;
      values.topK[b] = Math.min(topK, 0x7fffffff);
      values.topP[b] = topP;
      values.minP[b] = minP;
      this.fillSeed(values.seed, b, seqs[b]);
      values.position[b] = seqs[b].numOutputTokens;
    }
    values.temperature.fill(0, seqs.length);`,
      `    for (const name of ['topP', 'minP'] as const) values[name].set(seqs.map((seq) => seq.samplingParams[name]));
    values.topK.set(seqs.map(({ samplingParams: { topK } }) => (topK < 2 ** 31 ? topK : 2 ** 31 - 1)));
    values.temperature.fill(0);
    seqs.forEach((seq, row) => {
      values.temperature[row] = seq.samplingParams.temperature;
      values.position[row] = seq.numOutputTokens;
      this.fillSeed(values.seed, row, seq);
    });`,
    ],
    [
      'sampler.ts',
      `    words[2 * b] = ((seed ?? this.engineSeed) % 2 ** 32) | 0;
    words[2 * b + 1] = seed !== undefined ? Math.floor(seed / 2 ** 32) : 0x80000000 | requestIndex;`,
      `    const whole =
      seed === undefined ? (2n ** 63n + (BigInt(requestIndex) << 32n)) | (BigInt(this.engineSeed) & 0xffffffffn) : BigInt(seed);
    words.set([Number(whole & 0xffffffffn), Number(whole >> 32n)], 2 * b);`,
    ],
    [
      'stop-checker.ts',
      `    this.held += text;
    const match = this.firstMatch();
    if (match !== undefined) {
      this.matched = match.stop;
      const kept = this.held.slice(0, match.end - (this.includeStop ? 0 : match.stop.length));
      this.held = '';
      return kept;
    }
    const certain = this.held.length - this.possibleStart();
    const out = this.held.slice(0, certain);
    this.held = this.held.slice(certain);
    return out;`,
      // Letter by letter.
      `    let out = '';
    const longestFirst = [...this.stops].sort((a, b) => b.length - a.length);
    for (const letter of text.split('')) {
      this.held += letter;
      this.matched = longestFirst.find((stop) => this.held.endsWith(stop));
      if (this.matched !== undefined) {
        out += this.includeStop ? this.held : this.held.slice(0, -this.matched.length);
        this.held = '';
        break;
      }
      while (this.held && !this.stops.some((stop) => stop.startsWith(this.held))) {
        out += this.held[0];
        this.held = this.held.slice(1);
      }
    }
    return out;`,
    ],
    [
      'llm-engine.ts',
      'return !this.scheduler.isFinished || this.inFlight.length > 0 || this.endedOtherwise.length > 0;',
      'return this.requests.size + this.inFlight.length + this.endedOtherwise.length > 0;',
    ],
    [
      'llm-engine.ts',
      `    while (this.inFlight.length < atOnce) {
      if (!this.launchNext()) break;
    }
    const updates = this.endedOtherwise.splice(0);
    const [oldest] = this.inFlight;
    if (oldest) updates.push(...(await this.settle(oldest)));
    return updates;`,
      `    for (let i = this.inFlight.length; i < atOnce && this.launchNext(); i++);
    const before = this.endedOtherwise;
    this.endedOtherwise = [];
    return this.inFlight.length === 0 ? before : before.concat(await this.settle(this.inFlight[0]));`,
    ],
    [
      'llm-engine.ts',
      `    return advanced.flatMap((i) => {
      const request = this.requests.get(seqs[i]);
      return request ? [this.advance(request, logprobs.get(i))] : [];
    });`,
      `    const updates: RequestUpdate[] = [];
    for (const i of advanced) updates.push(this.advance(this.requests.get(seqs[i])!, logprobs.get(i)));
    return updates;`,
    ],
    [
      'llm-engine.ts',
      `    let text = request.advance(tokenId, logprobs);
    if (seq.isFinished && !request.isStopped) text += request.flush();
    if (request.isStopped) {
      this.scheduler.finish(seq, 'stop');
      seq.finishReason = 'stop';
    }
    if (seq.isFinished) this.requests.delete(seq);
    return request.update(text, [tokenId], logprobs);`,
      `    const certain = request.advance(tokenId, logprobs);
    if (request.isStopped && !seq.isFinished) this.scheduler.finish(seq, 'stop');
    else if (request.isStopped) seq.finishReason = 'stop';
    if (!seq.isFinished) return request.update(certain, [tokenId], logprobs);
    this.requests.delete(seq);
    const rest = request.isStopped ? '' : request.flush();
    return request.update(certain + rest, [tokenId], logprobs);`,
    ],
    [
      'llm-engine.ts',
      `    for (const [seq, request] of this.requests) {
      if (request.id !== requestId) continue;
      this.scheduler.finish(seq, 'abort');
      this.requests.delete(seq);
      this.endedOtherwise.push(request.update(request.flush(), []));
      return;
    }`,
      `    const request = [...this.requests.values()].find(({ id }) => id === requestId);
    if (request === undefined) return;
    const text = request.flush();
    this.requests.delete(request.seq);
    this.scheduler.finish(request.seq, 'abort');
    this.endedOtherwise = [...this.endedOtherwise, request.update(text, [])];`,
    ],
    [
      'llm-engine.ts',
      `    return batch.seqs.flatMap((seq) => {
      const request = this.requests.get(seq);
      if (!request) return [];
      this.scheduler.finish(seq, 'abort');
      this.requests.delete(seq);
      return [{ requestId: request.id, text: '', tokenIds: [], logprobs: undefined, error }];
    });`,
      `    const updates: RequestUpdate[] = [];
    for (const [seq, { id }] of [...this.requests]) {
      if (!batch.seqs.includes(seq)) continue;
      updates.push({ requestId: id, text: '', tokenIds: [], logprobs: undefined, error });
      this.requests.delete(seq);
      this.scheduler.finish(seq, 'abort');
    }
    return updates;`,
    ],
  ],
};
