// The two passes of sampling that look at the whole vocabulary.
#include <cmath>

#include "cpu/kernels/exp.h"
#include "cpu/kernels/ops.h"
#include "philox.h"

namespace nanovllm {
namespace NANO_ISA {
namespace {

typedef uint64_t VecL __attribute__((vector_size(8 * W)));

NANO_INLINE bool any(VecI mask) {
  uint64_t words[W / 2], all = 0;
  memcpy(words, &mask, sizeof words);
  for (uint64_t word : words) all |= word;
  return all != 0;
}

/// philoxWord for 4 · W tokens from `first` (a multiple of 4) on: one counter a lane.
NANO_INLINE void philoxWords(const uint32_t* key, uint32_t position, uint32_t first, uint32_t* words) {
  VecU lane;
  for (int i = 0; i < W; i++) lane[i] = static_cast<uint32_t>(i);
  VecU c0 = broadcastBits(position), c1 = lane + (first >> 2), c2 = {}, c3 = {};
  uint32_t k0 = key[0], k1 = key[1];
  for (int round = 0; round < kPhiloxRounds; round++) {
    const VecL p0 = __builtin_convertvector(c0, VecL) * kPhiloxM0;
    const VecL p1 = __builtin_convertvector(c2, VecL) * kPhiloxM1;
    c0 = __builtin_convertvector(p1 >> 32, VecU) ^ c1 ^ k0;
    c2 = __builtin_convertvector(p0 >> 32, VecU) ^ c3 ^ k1;
    c1 = __builtin_convertvector(p1, VecU);
    c3 = __builtin_convertvector(p0, VecU);
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
  for (int i = 0; i < W; i++) {
    words[4 * i] = c0[i];
    words[4 * i + 1] = c1[i];
    words[4 * i + 2] = c2[i];
    words[4 * i + 3] = c3[i];
  }
}

}  // namespace

int64_t argmax(const float* logits, int64_t n) {
  Vec largest = broadcast(-INFINITY);
  int64_t i = 0;
  for (; i + W <= n; i += W) largest = max(load(logits + i), largest);  // in this order a NaN never wins
  float best = -INFINITY;
  for (int lane = 0; lane < W; lane++) best = largest[lane] > best ? largest[lane] : best;
  for (; i < n; i++) best = logits[i] > best ? logits[i] : best;
  for (i = 0; i < n; i++) {
    if (logits[i] == best) return i;
  }
  return 0;
}

int64_t gumbelCandidates(const float* logits, int64_t begin, int64_t end, float inverseTemperature,
                         float best, const uint32_t* key, uint32_t position, int32_t* candidates) {
  int64_t found = 0;
  uint32_t words[4 * W];
  for (int64_t block = begin; block < end; block += 4 * W) {
    philoxWords(key, position, static_cast<uint32_t>(block), words);
    for (int64_t i = 0; i < 4 * W && block + i < end; i += W) {
      const int64_t n = end - block - i < W ? end - block - i : W;
      const Vec score = loadN(logits + block + i, n) * inverseTemperature;
      // Noise is -ln(-ln u) ≤ -ln(1-u), since -ln u ≥ 1-u. So a token can reach `best` only if
      // 1-u ≤ e^(score - best). `slack` covers what float32 loses against the doubles that decide.
      const Vec distance = score - best;
      const Vec slack = 0.01f + 1e-6f * (max(score, -score) + std::fabs(best));
      const Vec oneMinusU = __builtin_convertvector(~loadBits<VecU>(words + i), Vec) * 0x1p-32f;
      const VecI possible = oneMinusU <= exp(distance + slack);
      if (!any(possible)) continue;
      for (int64_t lane = 0; lane < n; lane++) {
        if (possible[lane]) candidates[found++] = static_cast<int32_t>(block + i + lane);
      }
    }
  }
  return found;
}

}  // namespace NANO_ISA
}  // namespace nanovllm
