// Sampling by the Gumbel-max trick: with g = -ln(-ln u) for uniform u, the argmax of logit/T + g is a draw
// from softmax(logits / T). Each token's u depends on (seed, position, token id) alone, so nothing has
// to be normalised, and a request draws the same token in any batch.
//
// Decisions are made in double precision, as in the reference. Float32 passes over the vocabulary only
// rule out tokens that are far from winning.
#include "cpu/sample.h"

#include <algorithm>
#include <cmath>

#include "philox.h"

namespace nanovllm {

int32_t Sampler::draw() {
  best_ = static_cast<int32_t>(kernels_.argmax(logits_, vocabulary_));
  if (params_.temperature == 0) return best_;
  largest_ = logits_[best_];
  bestScore_ = score(best_);
  const bool filtered =
      params_.minP > 0 || params_.topP < 1 || (params_.topK > 0 && params_.topK < vocabulary_);
  filtered ? drawFromFiltered() : drawFromAll();
  return best_;
}

/// logit / temperature + Gumbel noise
double Sampler::score(int32_t id) const {
  const double u = (philoxWord(params_.key, params_.position, static_cast<uint32_t>(id)) + 0.5) * 0x1p-32;
  return logits_[id] / params_.temperature - std::log(-std::log(u));
}

/// Proportional to the token's probability; the likeliest has 1.
double Sampler::weight(float logit) const { return std::exp((logit - largest_) / params_.temperature); }

void Sampler::consider(int32_t id) {
  const double s = score(id);
  if (s > bestScore_ || (s == bestScore_ && id < best_)) {
    bestScore_ = s;
    best_ = id;
  }
}

void Sampler::drawFromAll() {
  constexpr int64_t kChunk = 2048;  // `bestScore_` rises from chunk to chunk, and fewer tokens can reach it
  int32_t candidates[kChunk];
  for (int64_t begin = 0; begin < vocabulary_; begin += kChunk) {
    const int64_t end = std::min(begin + kChunk, vocabulary_);
    const int64_t n =
        kernels_.gumbelCandidates(logits_, begin, end, static_cast<float>(1 / params_.temperature),
                                  static_cast<float>(bestScore_), params_.key, params_.position, candidates);
    for (int64_t i = 0; i < n; i++) consider(candidates[i]);
  }
}

/// The filters in vLLM's order. The likeliest token passes all of them.
void Sampler::drawFromFiltered() {
  keepMinPAndTopK();
  keepTopP();
  for (const Token& token : kept_) consider(token.id);
}

/// One pass over the vocabulary. With top-k it keeps a short list, cut back to the k likeliest whenever it
/// has grown to twice that; from then on only what is likelier than the last of them gets in. (An
/// equal logit does not: its id is higher.)
void Sampler::keepMinPAndTopK() {
  const size_t k = params_.topK > 0 ? static_cast<size_t>(params_.topK) : static_cast<size_t>(vocabulary_);
  const double bound = largest_ + std::log(params_.minP) * params_.temperature;
  // First by logit, generously and without an exponential; then exactly.
  double edge = params_.minP > 0 ? bound - 1e-3 - 1e-6 * std::fabs(bound) : -INFINITY;
  for (int64_t id = 0; id < vocabulary_; id++) {
    if (logits_[id] < edge || (params_.minP > 0 && weight(logits_[id]) < params_.minP)) continue;
    kept_.push_back({logits_[id], static_cast<int32_t>(id)});
    if (kept_.size() < 2 * k + 64) continue;
    cutTo(k);
    edge = std::nextafter(kept_.back().logit, INFINITY);
  }
  if (kept_.size() > k) cutTo(k);
}

/// Leaves the k likeliest, the least likely of them last.
void Sampler::cutTo(size_t k) {
  std::nth_element(kept_.begin(), kept_.begin() + (k - 1), kept_.end(), likelier);
  kept_.resize(k);
}

void Sampler::keepTopP() {
  if (params_.topP >= 1) return;
  double total = 0;
  for (const Token& token : kept_) total += weight(token.logit);
  // Sort only as much as is needed: the likeliest 64, then the next 512, …
  size_t sorted = 0;
  double mass = 0;
  for (size_t i = 0, step = 64; i < kept_.size(); i++) {
    if (i == sorted) {
      sorted = std::min(kept_.size(), sorted + step);
      step *= 8;
      if (sorted < kept_.size())
        std::nth_element(kept_.begin() + i, kept_.begin() + sorted, kept_.end(), likelier);
      std::sort(kept_.begin() + i, kept_.begin() + sorted, likelier);
    }
    mass += weight(kept_[i].logit);
    if (mass >= params_.topP * total) {
      kept_.resize(i + 1);
      return;
    }
  }
}

}  // namespace nanovllm
