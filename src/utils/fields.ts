import type { NanoVllmError } from '#nano/errors';

/**
 * What a setting may be, written once: the constructor checks values against it, the command line
 * makes a flag of it, and the help text prints it.
 */
export type Field =
  | {
      kind: 'number';
      min: number;
      max: number;
      integer: boolean;
      doc: string /** Also allowed, outside the range. */;
      or?: number;
    }
  | { kind: 'choice'; choices: readonly string[]; doc: string }
  | { kind: 'flag'; doc: string }
  | { kind: 'strings'; doc: string }
  | { kind: 'integers'; min: number; doc: string }
  /** Any above 0. */
  | { kind: 'rates'; doc: string };

export type Fields = Readonly<Record<string, Field>>;

/** The values a field accepts, in words. */
export function describeField(field: Field): string {
  switch (field.kind) {
    case 'number': {
      const what = field.integer ? 'a whole number' : 'a number';
      let range = `from ${field.min} to ${field.max}`;
      if (field.max === Number.MAX_SAFE_INTEGER) range = `of at least ${field.min}`;
      if (field.min === Number.MIN_VALUE) range = `above 0 and at most ${field.max}`;
      return `${field.or === undefined ? '' : `${field.or} or `}${what} ${range}`;
    }
    case 'choice':
      return `one of ${field.choices.map((c) => `'${c}'`).join(', ')}`;
    case 'flag':
      return 'true or false';
    case 'strings':
      return 'a non-empty string or an array of them';
    case 'integers':
      return `an array of whole numbers of at least ${field.min}`;
    case 'rates':
      return 'an array of numbers above 0';
  }
}

function accepts(field: Field, value: unknown): boolean {
  const isNumber = (v: unknown, min: number, max: number, integer: boolean) =>
    typeof v === 'number' && v >= min && v <= max && (!integer || Number.isInteger(v));
  switch (field.kind) {
    case 'number':
      return isNumber(value, field.min, field.max, field.integer) || (field.or !== undefined && value === field.or);
    case 'choice':
      return typeof value === 'string' && field.choices.includes(value);
    case 'flag':
      return typeof value === 'boolean';
    case 'strings':
      return Array.isArray(value) && value.every((s) => typeof s === 'string' && s !== '');
    case 'integers':
      return Array.isArray(value) && value.every((n) => isNumber(n, field.min, Number.MAX_SAFE_INTEGER, true));
    case 'rates':
      return Array.isArray(value) && value.every((n) => isNumber(n, Number.MIN_VALUE, Number.MAX_SAFE_INTEGER, false));
  }
}

/**
 * Checks that every option is a known field with an accepted value. `undefined` counts as absent.
 * @throws the given error class, naming the field, the value and what would be accepted.
 */
export function checkFields(fields: Fields, options: object, ErrorClass: new (message: string) => NanoVllmError): void {
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue;
    if (!Object.hasOwn(fields, name)) {
      throw new ErrorClass(`Unknown option '${name}'. Known: ${Object.keys(fields).join(', ')}.`);
    }
    if (!accepts(fields[name], value)) {
      throw new ErrorClass(`${name} must be ${describeField(fields[name])}, got ${show(value)}.`);
    }
  }
}

function show(value: unknown): string {
  if (typeof value === 'number' || typeof value === 'bigint') return String(value);
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 80 ? `${text.slice(0, 77)}…` : text;
}
