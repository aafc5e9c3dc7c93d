// Attention with an online softmax in CUDA: one warp a query. The exercise is online_softmax.cu, one way to
// write it solution.cu; they differ between the two lines of dashes only. With an NVIDIA GPU and nvcc, from
// the root of the repository:
//
//   nvcc -std=c++17 -O2 -arch=native -o dist/online_softmax days/day3/cuda/online_softmax.cu &&
//   dist/online_softmax
//
// It compares the kernel with the same in float64 on the CPU. Exit code 0: all numbers agree; 1: some don't,
// and the first ten are printed; 2: CUDA reported an error.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

constexpr int kWarp = 32;               // threads that run in step, the lanes of a warp
constexpr int kDim = 128;               // numbers of a head
constexpr int kPerLane = kDim / kWarp;  // lane l holds numbers l, l + 32, l + 64 and l + 96 of them
constexpr int kWarpsPerBlock = 4;

/// One sequence: its last `queries` of `keys` tokens are new. Neighbouring query heads share a key head.
struct Shape {
  int queries, keys, heads, kvHeads;
  float scale;
};

/// The sum of x over the 32 lanes of a warp, in every lane. Each step adds what the lane 16, 8, 4, 2, 1
/// places away has; all 32 lanes must take part.
__device__ float warpSum(float x) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

/// out[queries, heads, kDim] = softmax(scale · q kᵀ) v, for q[queries, heads, kDim] and k, v[keys, kvHeads,
/// kDim]. Causal, aligned at the bottom right; a query that sees no key gives zeros.
__global__ void attention(float* out, const float* q, const float* k, const float* v, Shape s) {
  const int lane = threadIdx.x % kWarp;
  const int row = blockIdx.x * kWarpsPerBlock + threadIdx.x / kWarp;  // this warp's: one query of one head
  if (row >= s.queries * s.heads) return;                             // all 32 lanes at once
  const int query = row / s.heads, head = row % s.heads;
  const int kvHead = head / (s.heads / s.kvHeads);
  const int visible = max(0, s.keys - s.queries + query + 1);  // it sees keys 0 to visible - 1
  const float* const myQ = q + static_cast<size_t>(row) * kDim;
  float* const myOut = out + static_cast<size_t>(row) * kDim;
  // Number d of key j is k[(j * kvHeads + kvHead) * kDim + d]; of its value v[...] with the same index.

  // ---------------------------------------------------------------------------------- yours: begin
  // TODO (about 18 lines)
  // Keep three things: the largest score so far, the sum of e^(score - largest), and the weighted values, of
  // which this lane holds kPerLane numbers (a small array: the compiler keeps it in registers). For each key:
  // 1. The score: this lane's products, then warpSum. Let lanes read neighbouring numbers: i * kWarp + lane.
  // 2. The new maximum. Scale sum and accumulator by expf(old - new), then add the key's expf(score - new).
  // After the last key, write accumulator / sum to myOut, or zeros where there was no key.
  (void)lane, (void)kvHead, (void)visible, (void)myQ, (void)myOut, (void)kPerLane;  // drop this line
  // ---------------------------------------------------------------------------------- yours: end
}

/// The same on the CPU, in float64 and with all scores stored.
std::vector<double> reference(const std::vector<float>& q, const std::vector<float>& k,
                              const std::vector<float>& v, const Shape& s) {
  std::vector<double> out(q.size(), 0.0), weights(s.keys);
  for (int row = 0; row < s.queries * s.heads; row++) {
    const int visible = std::max(0, s.keys - s.queries + row / s.heads + 1);
    const int kvHead = row % s.heads / (s.heads / s.kvHeads);
    const auto at = [&](int j) { return (static_cast<size_t>(j) * s.kvHeads + kvHead) * kDim; };
    double largest = -std::numeric_limits<double>::infinity(), sum = 0;
    for (int j = 0; j < visible; j++) {
      double score = 0;
      for (int d = 0; d < kDim; d++) score += static_cast<double>(q[size_t(row) * kDim + d]) * k[at(j) + d];
      weights[j] = s.scale * score;
      largest = std::max(largest, weights[j]);
    }
    for (int j = 0; j < visible; j++) sum += weights[j] = std::exp(weights[j] - largest);
    for (int j = 0; j < visible; j++)
      for (int d = 0; d < kDim; d++) out[size_t(row) * kDim + d] += weights[j] / sum * v[at(j) + d];
  }
  return out;
}

void must(cudaError_t result, const char* what) {
  if (result == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(result));
  std::exit(2);
}

float* toDevice(const std::vector<float>& values) {
  float* device = nullptr;
  const size_t bytes = std::max<size_t>(1, values.size()) * sizeof(float);
  must(cudaMalloc(reinterpret_cast<void**>(&device), bytes), "cudaMalloc");
  must(cudaMemcpy(device, values.data(), values.size() * sizeof(float), cudaMemcpyHostToDevice),
       "copy to the device");
  return device;
}

/// Runs the kernel on random numbers and prints the first ten that differ. Returns whether none does.
bool agrees(const char* name, const Shape& s, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  const auto draw = [&](int rows, int heads) {
    std::vector<float> values(static_cast<size_t>(rows) * heads * kDim);
    for (float& x : values) x = normal(generator);
    return values;
  };
  const std::vector<float> q = draw(s.queries, s.heads), k = draw(s.keys, s.kvHeads),
                           v = draw(s.keys, s.kvHeads);
  std::vector<float> out(q.size(), NAN);  // what the kernel does not write stays visible

  float* const device[] = {toDevice(out), toDevice(q), toDevice(k), toDevice(v)};
  const int blocks = (s.queries * s.heads + kWarpsPerBlock - 1) / kWarpsPerBlock;
  attention<<<blocks, kWarpsPerBlock * kWarp>>>(device[0], device[1], device[2], device[3], s);
  must(cudaGetLastError(), "launching the kernel");
  must(cudaMemcpy(out.data(), device[0], out.size() * sizeof(float), cudaMemcpyDeviceToHost),
       "running the kernel");
  for (float* memory : device) must(cudaFree(memory), "cudaFree");

  const std::vector<double> expected = reference(q, k, v, s);
  int wrong = 0;
  for (size_t i = 0; i < out.size() && wrong < 10; i++) {
    if (std::fabs(out[i] - expected[i]) <= 1e-3) continue;  // NaN is never <= anything, so it counts as wrong
    const int row = static_cast<int>(i / kDim);
    std::printf("%s: query %d, head %d, number %d: expected %.6f, got %.6f\n", name, row / s.heads,
                row % s.heads, static_cast<int>(i % kDim), expected[i], out[i]);
    wrong++;
  }
  if (wrong == 10) std::printf("%s: ten are enough.\n", name);
  if (wrong == 0) std::printf("%s: all %zu numbers agree\n", name, out.size());
  return wrong == 0;
}

int main() {
  const unsigned seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  const float scale = 1 / std::sqrt(static_cast<float>(kDim));
  // The first case that fails is the last.
  const bool ok = agrees("one token", {1, 1, 1, 1, scale}, seed) &&
                  agrees("a prompt, causal", {33, 33, 2, 2, scale}, seed) &&
                  agrees("decode: one query over 300 keys", {1, 300, 4, 4, scale}, seed) &&
                  agrees("a chunk after a cached prefix", {7, 100, 2, 2, scale}, seed) &&
                  agrees("16 query heads share 8 key heads", {5, 40, 16, 8, scale}, seed) &&
                  agrees("scores far apart: e^score overflows", {3, 200, 2, 1, 8.0f}, seed) &&
                  agrees("no key at all", {2, 0, 2, 2, scale}, seed) &&
                  agrees("queries that see no key", {5, 2, 1, 1, scale}, seed);
  return ok ? 0 : 1;
}
