import type { DayChecks } from './format';

export const day7: DayChecks = {
  tasks: ['7.1', '7.2', '7.3', '7.4', '7.5'],
  mistakes: [
    [
      [
        'statistics.ts',
        'const rank = (p / 100) * (sorted.length - 1);',
        'const rank = Math.floor((p / 100) * (sorted.length - 1));',
      ],
      ['request-times.ts', '? mean(interToken) :', '? (last - first) / tokensAt.length :'],
      ['costs.ts', '(2 * numHiddenLayers * numKeyValueHeads', '(numHiddenLayers * numKeyValueHeads'],
      [
        'statistics.ts',
        'Math.sqrt(residual / (points.length - 2) / spread)',
        '(residual / (points.length - 2) / spread)',
      ],
      ['arrivals.ts', 'time -= Math.log(1 - uniform()) / rate;', 'time += (2 * uniform()) / rate;'],
    ],
    [
      ['statistics.ts', '[...values].sort((a, b) => a - b)', '[...values].sort()'],
      ['request-times.ts', 'firstToken: first - arrivedAt', 'firstToken: first - sentAt'],
      ['costs.ts', '(this.pairOps * n * (n + 1)) / 2', 'this.pairOps * n * n'],
      ['statistics.ts', 'residual / (points.length - 2) / spread', 'residual / points.length / spread'],
      ['arrivals.ts', 'Math.log(1 - uniform())', 'Math.log(uniform())'],
    ],
    [
      ['statistics.ts', '(p / 100) * (sorted.length - 1)', '(p / 100) * sorted.length'],
      [
        'request-times.ts',
        'tokensAt.slice(1).map((at, i) => at - tokensAt[i])',
        'tokensAt.map((at, i) => at - (i > 0 ? tokensAt[i - 1] : arrivedAt))',
      ],
      [
        'costs.ts',
        'Math.max(bytes / bandwidth, operations / matrixRate)',
        'bytes / bandwidth + operations / matrixRate',
      ],
      ['statistics.ts', 'Math.abs(slope) <= margin', 'slope <= margin'],
      ['arrivals.ts', 'time -= Math.log', 'time = -Math.log'],
    ],
    [
      ['statistics.ts', '[...values].sort', '(values as number[]).sort'],
      ['request-times.ts', 'perToken ?? []', 'perToken ?? 0'],
      ['costs.ts', '2 * (n * this.layerWeights + this.headWeights)', '2 * n * (this.layerWeights + this.headWeights)'],
      ['statistics.ts', 'Math.floor((i * points.length) / count)', 'i * Math.floor(points.length / count)'],
      ['arrivals.ts', '/ duration;', '/ stays.length;'],
    ],
    [
      ['statistics.ts', 'median: percentile(times, 50)', 'median: [...times].sort((a, b) => a - b)[times.length >> 1]'],
      [
        'request-times.ts',
        'requests.flatMap(({ interToken }) => interToken)',
        'requests.flatMap(({ perToken }) => perToken ?? [])',
      ],
      [
        'costs.ts',
        'numKeyValueHeads * headDim * this.elementBytes',
        'this.model.numAttentionHeads * headDim * this.elementBytes',
      ],
      ['statistics.ts', 'studentT(points.length - 2) * Math.sqrt', '1.96 * Math.sqrt'],
      ['arrivals.ts', 'if (!(rate > 0 && rate < Infinity))', 'if (rate === 0)'],
    ],
  ],
  alternatives: [
    [
      'statistics.ts',
      'const [low, high] = [sorted[Math.floor(rank)], sorted[Math.ceil(rank)]];\n' +
        '  return low + (rank - Math.floor(rank)) * (high - low);',
      'const whole = Math.trunc(rank);\n' +
        '  if (whole === sorted.length - 1) return sorted[whole];\n' +
        '  const share = rank - whole;\n' +
        '  return sorted[whole] * (1 - share) + sorted[whole + 1] * share;',
    ],
    ['statistics.ts', '[...values].sort((a, b) => a - b)', 'Float64Array.from(values).sort()'],
    [
      'statistics.ts',
      'return values.reduce((sum, value) => sum + value, 0) / values.length;',
      'let sum = 0;\n  for (const value of values) sum += value;\n  return sum / values.length;',
    ],
    [
      'statistics.ts',
      'return { value: percentile(times, 0), median: percentile(times, 50) };',
      'if (times.length === 0) throw new RangeError();\n' +
        '  const sorted = [...times].sort((a, b) => a - b);\n' +
        '  const [low, high] = [(times.length - 1) >> 1, times.length >> 1];\n' +
        '  return { value: sorted[0], median: (sorted[low] + sorted[high]) / 2 };',
    ],
    [
      'statistics.ts',
      'const slope = points.reduce((sum, p) => sum + (p.x - x) * (p.y - y), 0) / spread;',
      'let slope = 0;\n  for (const p of points) slope += ((p.x - x) * p.y) / spread;',
    ],
    [
      'statistics.ts',
      'Math.sqrt(residual / (points.length - 2) / spread)',
      '(residual / (points.length - 2) / spread) ** 0.5',
    ],
    ['statistics.ts', 'Math.abs(slope) <= margin', 'slope - margin <= 0 && slope + margin >= 0'],
    [
      'request-times.ts',
      'const perToken = interToken.length > 0 ? mean(interToken) : undefined;',
      'const perToken = tokensAt.length === 1 ? undefined : (last - first) / (tokensAt.length - 1);',
    ],
    [
      'request-times.ts',
      'tokensAt.slice(1).map((at, i) => at - tokensAt[i])',
      'Array.from({ length: tokensAt.length - 1 }, (_, i) => tokensAt[i + 1] - tokensAt[i])',
    ],
    [
      'request-times.ts',
      'requests.flatMap(({ perToken }) => perToken ?? [])',
      'requests.map(({ perToken }) => perToken).filter((time) => time !== undefined)',
    ],
    [
      'costs.ts',
      'return this.weightBytes + contextTokens * this.kvBytesPerToken;',
      'const cache = this.kvBytesPerToken * contextTokens;\n    return cache + this.weightBytes;',
    ],
    [
      'costs.ts',
      '(this.pairOps * n * (n + 1)) / 2',
      'this.pairOps * Array.from({ length: n }, (_, i) => i + 1).reduce((a, b) => a + b, 0)',
    ],
    [
      'costs.ts',
      'return Math.max(bytes / bandwidth, operations / matrixRate);',
      'const isMemory = operations / bytes < matrixRate / bandwidth;\n  return isMemory ? bytes / bandwidth : operations / matrixRate;',
    ],
    [
      'arrivals.ts',
      'return Array.from({ length: count }, () => {\n    time -= Math.log(1 - uniform()) / rate;\n    return time;\n  });',
      'const times: number[] = [];\n  while (times.length < count) times.push((time -= Math.log1p(-uniform()) / rate));\n  return times;',
    ],
    [
      'arrivals.ts',
      'return stays.reduce((sum, stay) => sum + stay, 0) / duration;',
      'const rate = stays.length / duration;\n' +
        '  return stays.length === 0 ? 0 : rate * (stays.reduce((sum, stay) => sum + stay, 0) / stays.length);',
    ],
  ],
};
