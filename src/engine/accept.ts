import type { EngineOptions, Prompt } from '#nano/engine/llm-engine';
import { InvalidRequestError } from '#nano/errors';
import type { SamplingParams } from '#nano/sampling-params';

/**
 * The prompt as token ids, if the engine can serve it with these parameters.
 * @throws InvalidRequestError which says what it cannot serve, and what would help.
 */
export function acceptPrompt(prompt: Prompt, params: SamplingParams, options: EngineOptions): readonly number[] {
  const { maxModelLen, vocabSize, tokenizer } = options;
  const tokenIds = typeof prompt === 'string' ? encode(prompt, options) : prompt;
  if (tokenIds.length === 0) {
    throw new InvalidRequestError('The prompt is empty: give at least one token.');
  }
  if (tokenIds.length >= maxModelLen) {
    throw new InvalidRequestError(
      `The prompt has ${tokenIds.length} tokens; with maxModelLen ${maxModelLen} at most ${maxModelLen - 1} fit, ` +
        'which leaves room for one token of output. Shorten it or raise maxModelLen.',
    );
  }
  checkIds('Token id', tokenIds, vocabSize);
  checkIds('stopTokenIds entry', params.stopTokenIds, vocabSize);
  if (params.stop.length > 0 && !tokenizer) {
    throw new InvalidRequestError('Stop strings need a tokenizer, and the model has none: use stopTokenIds.');
  }
  return tokenIds;
}

function encode(prompt: string, { tokenizer }: EngineOptions): readonly number[] {
  if (!tokenizer) {
    throw new InvalidRequestError('The model has no tokenizer.json: give the prompt as token ids, or add that file.');
  }
  return tokenizer.encode(prompt);
}

function checkIds(what: string, ids: readonly number[], vocabSize: number): void {
  const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
  if (bad === undefined) return;
  throw new InvalidRequestError(
    `${what} ${bad} is not in the vocabulary: ids are whole numbers from 0 to ${vocabSize - 1}.`,
  );
}
