import type { Batch } from '#nano/engine/scheduler';
import type { Sequence } from '#nano/engine/sequence';

/** What a step needs to know of a sequence: all that crosses to other ranks. */
export type StepSequence = Pick<
  Sequence,
  | 'numTokens'
  | 'numCachedTokens'
  | 'numScheduledTokens'
  | 'numOutputTokens'
  | 'tokenIds'
  | 'blockTable'
  | 'tokenSlot'
  | 'requestIndex'
> & {
  readonly samplingParams: Pick<
    Sequence['samplingParams'],
    'temperature' | 'topK' | 'topP' | 'minP' | 'seed' | 'logprobs'
  >;
};

/** What a step computes; see {@link Batch}. */
export interface Step extends Pick<Batch, 'isPrefill' | 'numDrawing'> {
  readonly seqs: readonly StepSequence[];
}
