import { Config, type ConfigOptions } from '#nano/config';
import { ModelRunner } from '#nano/engine/model-runner';
import { Sequence } from '#nano/engine/sequence';
import type { Step } from '#nano/engine/step';
import { parseModelConfig } from '#nano/models/model-config';
import { buildModel } from '#nano/models/registry';
import { type SamplingOptions, SamplingParams } from '#nano/sampling-params';
import type { Backend } from '#nano/tensor/kernels';
import { Ops } from '#nano/tensor/ops';
import { TINY_CONFIG } from './tiny-model';

/** A sequence in blocks of 4 tokens, wherever the fields say it stands. */
export function sequence(tokens: number[], fields: Partial<Sequence>, params: SamplingOptions = {}): Sequence {
  return Object.assign(new Sequence(tokens, new SamplingParams(params), 4), fields);
}

/** A runner of the tiny model, without a cache so far; its weights are quickly made. */
export function makeRunner(
  backend: Backend,
  {
    maxModelLen = 24,
    skipWarmUp,
    ...options
  }: ConfigOptions & { skipWarmUp?: boolean; padDecodeBatches?: boolean } = {},
) {
  const ops = new Ops(backend, 'float32');
  const model = buildModel(ops, parseModelConfig(JSON.stringify(TINY_CONFIG), 'tiny'), {
    dtype: 'float32',
    attnBackend: options.attnBackend ?? 'flash',
    maxModelLen: 512,
  });
  for (const [p, parameter] of model.parameters().entries()) {
    const { tensor, shape, firstRow } = parameter;
    const numel = shape.reduce((a, b) => a * b, 1);
    const values = Float32Array.from({ length: numel }, (_, i) => (shape.length === 1 ? 1 : Math.sin(p + i * 12.9898)));
    backend.loadRows(tensor, firstRow, new Uint8Array(values.buffer), 'float32');
  }
  const { padDecodeBatches, ...rest } = options;
  const config = new Config({ kvCacheBlockSize: 4, maxNumSeqs: 4, ...rest });
  const runner = new ModelRunner(ops, model, {
    config,
    maxModelLen,
    kvCacheDType: 'float32',
    skipWarmUp,
    padDecodeBatches,
  });
  return { runner, ops };
}

/** A step that computes the whole prompts of these sequences. */
export function prefill(...seqs: Sequence[]): Step {
  for (const seq of seqs) Object.assign(seq, { numCachedTokens: 0, numScheduledTokens: seq.numTokens });
  return { isPrefill: true, seqs, numDrawing: seqs.length };
}

/** Takes the drawn tokens into the sequences. */
export const extend = (seqs: readonly Sequence[], tokenIds: ArrayLike<number>) =>
  seqs.forEach((seq, i) => seq.appendToken(tokenIds[i]));
