// Drawing one token from a row of logits.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels.h"

namespace nanovllm {

/// One row's parameters; see SampleArgs in src/tensor/kernels.ts.
struct SampleParams {
  double temperature;
  int64_t topK;
  double topP, minP;
  uint32_t key[2];
  uint32_t position;
};

class Sampler {
 public:
  Sampler(const KernelTable& kernels, const float* logits, int64_t vocabulary, const SampleParams& params)
      : kernels_(kernels), logits_(logits), vocabulary_(vocabulary), params_(params) {}

  int32_t draw();

 private:
  struct Token {
    float logit;
    int32_t id;
  };
  static bool likelier(const Token& a, const Token& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  }

  double score(int32_t id) const;
  double weight(float logit) const;
  void consider(int32_t id);
  void drawFromAll();
  void drawFromFiltered();
  void keepMinPAndTopK();
  void cutTo(size_t k);
  void keepTopP();

  const KernelTable& kernels_;
  const float* logits_;
  const int64_t vocabulary_;
  const SampleParams& params_;
  std::vector<Token> kept_;
  double largest_ = 0;  // the largest logit
  double bestScore_ = 0;
  int32_t best_ = 0;
};

}  // namespace nanovllm
