// Random numbers without a state: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy
// as 1, 2, 3") turns a 128-bit counter and a 64-bit key into four random words. The same on every
// backend: src/utils/philox.ts.
#pragma once

#include <cstdint>

namespace nanovllm {

constexpr uint32_t kPhiloxM0 = 0xD2511F53, kPhiloxM1 = 0xCD9E8D57;
constexpr uint32_t kPhiloxW0 = 0x9E3779B9, kPhiloxW1 = 0xBB67AE85;
constexpr int kPhiloxRounds = 10;

/// The word drawn for one token: the key is the request's seed, the counter its output position and
/// the token's id. Four neighbouring tokens share one counter.
inline uint32_t philoxWord(const uint32_t key[2], uint32_t position, uint32_t token) {
  uint32_t c[4] = {position, token >> 2, 0, 0};
  uint32_t k0 = key[0], k1 = key[1];
  for (int round = 0; round < kPhiloxRounds; round++) {
    const uint64_t p0 = static_cast<uint64_t>(kPhiloxM0) * c[0];
    const uint64_t p1 = static_cast<uint64_t>(kPhiloxM1) * c[2];
    const uint32_t next[4] = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
                              static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    for (int i = 0; i < 4; i++) c[i] = next[i];
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
  return c[token & 3];
}

}  // namespace nanovllm
