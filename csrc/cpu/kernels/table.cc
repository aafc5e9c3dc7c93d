#include "cpu/kernels/ops.h"

namespace nanovllm {
namespace NANO_ISA {

extern const KernelTable kTable;
const KernelTable kTable = {embedding,       linear,       rmsNorm,         siluAndMul,
                            rotaryEmbedding, storeKvCache, gatherRows,      flashAttention,
                            mathAttention,   argmax,       gumbelCandidates};

}  // namespace NANO_ISA
}  // namespace nanovllm
