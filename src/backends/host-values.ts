import { InvalidTensorError } from '#nano/errors';
import type { Tensor } from '#nano/tensor/tensor';

/** @throws InvalidTensorError unless `values` can hold the tensor's elements: as many, and integers where it has integers. */
export function checkHostValues(op: string, tensor: Tensor, values: Float32Array | Int32Array): void {
  const { numel, dtype, shape } = tensor;
  if (values.length === numel && (dtype === 'int32') === values instanceof Int32Array) return;
  throw new InvalidTensorError(
    `${op}: expected ${numel} ${dtype} values for a [${shape}] tensor, got ${values.length} in ` +
      `${values instanceof Int32Array ? 'an Int32Array' : 'a Float32Array'}.`,
  );
}

/** @throws InvalidTensorError unless the tensor can be copied into `into` as it lies. */
export function checkCopyOut(tensor: Tensor, into: Float32Array | Int32Array): void {
  checkHostValues('copyOut', tensor, into);
  if (!tensor.isContiguous) throw new InvalidTensorError(`copyOut: [${tensor.shape}] must be contiguous.`);
}
