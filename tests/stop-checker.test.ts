import fc from 'fast-check';
import { expect, test } from 'vitest';
import { StopChecker } from '#nano/engine/stop-checker';
import { InvalidRequestError } from '#nano/errors';

function run(checker: StopChecker, parts: readonly string[]): string[] {
  return [...parts.map((part) => checker.push(part)), checker.flush()];
}

test('holds back what may be the beginning of a stop string', () => {
  const checker = new StopChecker(['Elephant']);
  expect(run(checker, ['An El', 'eph', 'ony'])).toEqual(['An ', '', 'Elephony', '']);
  expect(checker.matched).toBeUndefined();
});

test('cuts before a stop string that spans tokens, and is silent afterwards', () => {
  const checker = new StopChecker(['Elephant']);
  expect(run(checker, ['An El', 'eph', 'ants', 'more'])).toEqual(['An ', '', '', '', '']);
  expect(checker.matched).toBe('Elephant');
});

test('can leave the stop string in', () => {
  const checker = new StopChecker(['stop'], { includeStopStrInOutput: true });
  expect(run(checker, ['a st', 'op b']).join('')).toBe('a stop');
});

test('the end of the text releases what was held', () => {
  const checker = new StopChecker(['\n\n']);
  expect(run(checker, ['a\n'])).toEqual(['a', '\n']);
  expect(checker.flush()).toBe(''); // once
});

test('a stop string whose beginning repeats', () => {
  const checker = new StopChecker(['aab']);
  expect(run(checker, ['a', 'a', 'a', 'b']).join('')).toBe('a');
  expect(checker.matched).toBe('aab');
});

test('without stop strings nothing is held', () => {
  expect(run(new StopChecker([]), ['a', 'b'])).toEqual(['a', 'b', '']);
});

test('an empty stop string is refused', () => {
  expect(() => new StopChecker(['a', ''])).toThrow(InvalidRequestError);
  expect(() => new StopChecker([''])).toThrow("A stop string must not be empty: '' is in every text.");
});

/** One character at a time, with all of the text at hand: the definition. */
function definition(text: string, stops: readonly string[]): { text: string; matched: string | undefined } {
  for (let end = 1; end <= text.length; end++) {
    const ending = stops.filter((stop) => text.slice(0, end).endsWith(stop)).sort((a, b) => b.length - a.length);
    if (ending.length > 0) return { text: text.slice(0, end - ending[0].length), matched: ending[0] };
  }
  return { text, matched: undefined };
}

test('the result does not depend on how the text is cut', () => {
  const short = (minLength: number, maxLength: number) =>
    fc.string({ unit: fc.constantFrom('a', 'b', 'c'), minLength, maxLength });
  fc.assert(
    fc.property(fc.array(short(0, 4), { maxLength: 12 }), fc.array(short(1, 4), { maxLength: 3 }), (parts, stops) => {
      const checker = new StopChecker(stops);
      const expected = definition(parts.join(''), stops);
      expect(run(checker, parts).join('')).toBe(expected.text);
      expect(checker.matched).toBe(expected.matched);
    }),
    { numRuns: 2000 },
  );
});
