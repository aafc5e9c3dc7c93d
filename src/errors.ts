/**
 * Every error a user can cause has a class, and a message that says what was given, what is
 * allowed and what to do. Anything else that is thrown is a bug.
 */
export class NanoVllmError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** A field of the configuration, or two that do not go together. */
export class ConfigError extends NanoVllmError {}

/** A prompt or a sampling parameter of one request. Other requests go on. */
export class InvalidRequestError extends NanoVllmError {}

/** A model folder: a file missing, an architecture unknown, a tensor absent or misshapen. */
export class ModelError extends NanoVllmError {}

/** A safetensors file whose header or size is not as the format demands. */
export class SafetensorsError extends ModelError {}

/** A model hub that does not answer, or answers no. */
export class HubError extends NanoVllmError {}

/** A backend that cannot run here, or ran out of memory. */
export class BackendError extends NanoVllmError {}

/** A rank that was lost, could not be reached, or does not belong to this run. The whole group ends. */
export class DistributedError extends NanoVllmError {}

/** Shapes, dtypes or lifetimes that do not fit an operation. */
export class InvalidTensorError extends NanoVllmError {}
