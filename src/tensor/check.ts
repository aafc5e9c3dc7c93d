import { InvalidTensorError } from '#nano/errors';
import type { DType } from '#nano/tensor/dtype';
import type { Tensor } from '#nano/tensor/tensor';

/** What one argument of an operation must be: named or fixed sizes, and allowed dtypes. */
export type Expected = readonly [tensor: Tensor, dims: readonly (string | number)[], ...dtypes: DType[]];

/**
 * Matches tensors against named shapes: the same name must have the same size everywhere, so
 * `match('linear', { x: [x, ['T', 'K']], weight: [w, ['N', 'K']] })` catches a weight of the wrong width and
 * says which argument, which dimension, what was expected and what came.
 *
 * @returns the sizes by name.
 * @throws InvalidTensorError on the first argument that does not fit, or is no longer alive.
 */
export function match(op: string, args: Readonly<Record<string, Expected>>): Record<string, number> {
  const sizes: Record<string, number> = {};
  const from: Record<string, string> = {};
  for (const name in args) {
    const [tensor, dims, ...dtypes] = args[name];
    tensor.assertAlive();
    const got = () => `got [${tensor.shape}] ${tensor.dtype}`;
    if (tensor.rank !== dims.length) {
      throw new InvalidTensorError(`${op}: expected ${name} to be [${dims}], ${got()}.`);
    }
    if (dtypes.length > 0 && !dtypes.includes(tensor.dtype)) {
      throw new InvalidTensorError(`${op}: expected ${name} to hold ${dtypes.join(' or ')}, ${got()}.`);
    }
    if (tensor.layout === 'strided' && tensor.rank > 0 && tensor.strides[tensor.rank - 1] !== 1) {
      throw new InvalidTensorError(`${op}: ${name}'s last dimension must be contiguous, ${got()}.`);
    }
    for (let i = 0; i < dims.length; i++) {
      const dim = dims[i];
      const size = tensor.shape[i];
      const expected = typeof dim === 'number' ? dim : sizes[dim];
      if (expected === undefined) {
        sizes[dim] = size;
        from[dim] = name;
      } else if (expected !== size) {
        const reason = typeof dim === 'number' ? '' : ` (${dim}, from ${from[dim]})`;
        throw new InvalidTensorError(`${op}: expected ${name}.shape[${i}] = ${expected}${reason}, ${got()}.`);
      }
    }
  }
  return sizes;
}
