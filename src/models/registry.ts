import { ModelError } from '#nano/errors';
import type { ModelConfig } from '#nano/models/model-config';
import { type BuildOptions, Qwen3ForCausalLM } from '#nano/models/qwen3';
import type { Ops } from '#nano/tensor/ops';

/** What the runner asks of a model. */
export type CausalLM = Qwen3ForCausalLM;

const MODELS = { Qwen3ForCausalLM } as const;

/** @throws ModelError naming the architecture and the known ones. */
export function buildModel(ops: Ops, config: ModelConfig, options: BuildOptions): CausalLM {
  if (!Object.hasOwn(MODELS, config.architecture)) {
    throw new ModelError(
      `Architecture '${config.architecture}' is not supported. Supported: ${Object.keys(MODELS).join(', ')}.`,
    );
  }
  return new MODELS[config.architecture as keyof typeof MODELS](ops, config, options);
}
