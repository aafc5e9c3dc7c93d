// Every instruction set's kernels, as declared in its own namespace. See cpu/kernels.h.
#pragma once

#include "cpu/kernels.h"

namespace nanovllm {
namespace NANO_ISA {

void embedding(Context&, const TensorView& out, const TensorView& ids, const TensorView& weight,
               int64_t firstRow);
void linear(Context&, const TensorView& out, const TensorView& x, const TensorView& weight,
            const LinearEpilogue& epilogue);
void rmsNorm(Context&, const TensorView& out, const TensorView& x, const float* weight, float eps);
void siluAndMul(Context&, const TensorView& out, const TensorView& x);
void rotaryEmbedding(Context&, const TensorView& q, const TensorView& k, const int32_t* positions,
                     const TensorView& cosSin);
void storeKvCache(Context&, const TensorView& k, const TensorView& v, const TensorView& kCache,
                  const TensorView& vCache, const int32_t* slots);
void gatherRows(Context&, const TensorView& out, const TensorView& x, const int32_t* rows);
void flashAttention(Context&, const AttnBatch&);
void mathAttention(Context&, const AttnBatch&, const TensorView& k, const TensorView& v,
                   const TensorView& scores);
int64_t argmax(const float* logits, int64_t n);
int64_t gumbelCandidates(const float* logits, int64_t begin, int64_t end, float inverseTemperature,
                         float best, const uint32_t* key, uint32_t position, int32_t* candidates);

}  // namespace NANO_ISA
}  // namespace nanovllm
