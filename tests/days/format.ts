/** In `file` of the day's solution, `from` (which must be there) becomes `to`. */
export type Replacement = readonly [file: string, from: string, to: string];

/** Solutions of a day that its checkpoint must tell apart. */
export interface DayChecks {
  readonly tasks: readonly string[];
  /** Each set has one easy mistake for every task; each must fail its own. */
  readonly mistakes: readonly (readonly Replacement[])[];
  /** All together: a correct solution written in another way. */
  readonly alternatives: readonly Replacement[];
}
