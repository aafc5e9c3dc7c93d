import type { BenchRow } from '#nano/bench/report';
import type { ShapeName } from '#nano/bench/shapes';
import type { Backend } from '#nano/tensor/kernels';

/**
 * Other engines' figures for the same work, measured 2026-11-21 on one H100 80GB with random weights of Qwen3-0.6B's shape in
 * bfloat16. nano-vllm is commit bb823b3 with CUDA graphs; its flash-attn was replaced by PyTorch's FlashAttention-2 for
 * prefill and a split-KV Triton kernel for decode.
 */
const NANO_VLLM: Readonly<Record<string, number>> = {
  'throughput 256 requests tok/s': 13204,
  'latency 1 × 512 first ms': 65,
  'latency 1 × 512 next ms': 2.22,
  'latency 16 × 512 next ms': 2.81,
  'latency 64 × 1024 first ms': 303,
  'latency 64 × 1024 next ms': 5.79,
  'startup s': 25,
};

/** nano-vllm's figure, where there is one for this model on this kind of GPU. */
export function nanoVllm(figure: string, shape: ShapeName, { description }: Backend): Pick<BenchRow, 'peer'> {
  const value = NANO_VLLM[figure];
  return value && shape === 'qwen3-0.6b' && description.includes('H100') ? { peer: { name: 'nano-vllm', value } } : {};
}

/** Where the attention figures below come from, for the headings of tables. */
export const PEERS_FROM = "others' figures: an H100 80GB, 2026-11-21";

/** TFLOP/s at the shapes of the attention suite, in its order: PyTorch's FlashAttention-2, and cuDNN's attention through PyTorch. */
export const PREFILL_PEERS = {
  'PyTorch FA2': [126, 250, 273, 328],
  'PyTorch cuDNN': [238, 461, 522, 568],
} as const;

/** GB/s likewise: a split-KV kernel in Triton. */
export const DECODE_PEERS = { Triton: [532, 1642, 2477, 2855, 2888] } as const;
