// The sampler: one token id a row of logits, on the device, so that a decode step's token can feed the next
// step without a round trip to the host.
//
// A row draws by the Gumbel-max trick: argmax of logit / temperature + noise is a draw from the softmax, and
// an argmax, unlike a softmax and a search through its running sum, is one pass over the row that can be cut
// into independent pieces. Rows of all kinds share two kernels, because the launches are recorded once in a
// CUDA graph and must serve whatever parameters the rows have:
//
//   1. scanChunks reads all logits, once. A row is cut into chunks, one block each: a row has 600 KB, and one
//      block alone could not ask for more than a fiftieth of the memory bandwidth. Greedy and unfiltered rows
//      leave each chunk's winner. Filtered rows leave the maximum of every 32 logits: 1/32 of the row, and
//      enough to find its likeliest tokens.
//   2. chooseTokens (sample_choose.cu) has one block a row: it compares the winners, or filters.
//
// No atomics and no state between calls: a row's token depends on its own logits and parameters alone.
#include <algorithm>

#include "cuda/sample.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kScanThreads = 256;

/// A thread's logits: kVectors runs of four.
template <int kVectors>
struct Slice {
  float x[kVectors][4];

  __device__ __forceinline__ int firstId() const {
    return (blockIdx.x * kVectors * kScanThreads + threadIdx.x) * 4;
  }
  /// Id of x[v][0]. Neighbouring threads have neighbouring runs, so that a warp's load is 512 bytes in a row.
  __device__ __forceinline__ int idOf(int v) const { return firstId() + v * kScanThreads * 4; }

  __device__ __forceinline__ void load(const float* row, int vocabulary) {
    const bool aligned = isAligned(row);
#pragma unroll
    for (int v = 0; v < kVectors; v++) {
      const float4 four = loadFour(row, idOf(v), vocabulary, aligned);
      x[v][0] = four.x, x[v][1] = four.y, x[v][2] = four.z, x[v][3] = four.w;
    }
  }

  __device__ __forceinline__ float largestOf(int v) const {
    return fmaxf(fmaxf(x[v][0], x[v][1]), fmaxf(x[v][2], x[v][3]));
  }
  __device__ __forceinline__ float chunkPivot() const {
    float largest = -INFINITY;
#pragma unroll
    for (int v = 0; v < kVectors; v++) largest = fmaxf(largest, largestOf(v));
    return finitePivot(blockMax<kScanThreads>(largest));
  }
};

template <int kVectors>
__device__ __forceinline__ Best likeliest(const Slice<kVectors>& slice) {
  Best best;
#pragma unroll
  for (int v = 0; v < kVectors; v++) {
#pragma unroll
    for (int j = 0; j < 4; j++) best.consider(slice.x[v][j], slice.idOf(v) + j);
  }
  return best;
}

template <int kVectors>
__device__ __forceinline__ Best draw(const Slice<kVectors>& slice, const SampleRow& row, float pivot) {
  // The chunk's likeliest token has score 0.
  Race race{row.key, row.position, kLeastNoise};
#pragma unroll
  for (int v = 0; v < kVectors; v++) {
    float score[4];
#pragma unroll
    for (int j = 0; j < 4; j++) score[j] = (slice.x[v][j] - pivot) * row.inverseTemperature;
    race.enter(score, slice.idOf(v));
  }
  return race.best;
}

/// The maximum of every kGroup = 32 neighbouring logits, which eight neighbouring threads hold.
template <int kVectors>
__device__ __forceinline__ void storeGroupMax(const Slice<kVectors>& slice, float* groupMax, int vocabulary) {
#pragma unroll
  for (int v = 0; v < kVectors; v++) {
    float largest = fmaxf(-INFINITY, slice.largestOf(v));  // all NaN: -inf
#pragma unroll
    for (int lanes = kGroup / 8; lanes > 0; lanes /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, lanes));
    }
    const int id = slice.idOf(v);
    if (id % kGroup == 0 && id < vocabulary) groupMax[id / kGroup] = largest;
  }
}

/// The chunk's mass, for thread 0.
template <int kVectors>
__device__ __forceinline__ uint64_t chunkMass(const Slice<kVectors>& slice, const SampleRow& row, float pivot,
                                              int massBits) {
  __shared__ uint64_t warpMass[kScanThreads / kWarp];
  uint64_t mass = 0;
#pragma unroll
  for (int v = 0; v < kVectors; v++) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const float logit = slice.x[v][j];
      if (logit == logit) mass += massOf(logit, pivot, row.inverseTemperature, massBits);
    }
  }
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) mass += __shfl_xor_sync(kAllLanes, mass, lanes);
  if (threadIdx.x % kWarp == 0) warpMass[threadIdx.x / kWarp] = mass;
  __syncthreads();
  for (int w = 1; w < kScanThreads / kWarp; w++) mass += warpMass[w];
  return mass;
}

/// Block (c, b) takes chunk c of row b.
template <int kVectors>
__global__ void __launch_bounds__(kScanThreads) scanChunks(const SampleCall call) {
  launchDependents();
  waitForPrevious();
  const int b = blockIdx.y;
  Slice<kVectors> slice;
  slice.load(call.row(b), call.vocabulary);
  const SampleRow row = call.parameters(b);
  ChunkResult result{};
  if (row.greedy()) {
    const Best best = blockBest<kScanThreads>(likeliest(slice));
    result.score = best.score, result.id = best.id;
  } else if (!row.filtered()) {
    result.pivot = slice.chunkPivot();
    const Best best = blockBest<kScanThreads>(draw(slice, row, result.pivot));
    result.score = best.score, result.id = best.id;
  } else {
    storeGroupMax(slice, call.groupMax + static_cast<int64_t>(b) * call.groups, call.vocabulary);
    if (!row.topPAlone()) return;
    result.pivot = slice.chunkPivot();
    result.mass = chunkMass(slice, row, result.pivot, call.massBits);
  }
  if (threadIdx.x == 0) call.results[static_cast<int64_t>(b) * call.chunks + blockIdx.x] = result;
}

int divideUp(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }
/// Ids in one block's chunk.
int chunkOf(int vectors) { return vectors * 4 * kScanThreads; }

/// kVectors for a call: long chunks spend least on starting and ending blocks, but a few rows would not fill
/// the GPU with them.
int vectorsFor(const Launch& on, int64_t rows, int64_t vocabulary) {
  if (rows * divideUp(vocabulary, chunkOf(1)) <= 2 * on.multiprocessors) return 1;
  return rows * divideUp(vocabulary, chunkOf(4)) <= 4 * on.multiprocessors ? 4 : 8;
}

void sampleRows(const Launch& on, SampleCall call, int rows, int vectors) {
  const auto scan = vectors == 1 ? scanChunks<1> : vectors == 4 ? scanChunks<4> : scanChunks<8>;
  launch(on, "sample, scan", scan, dim3(call.chunks, rows), kScanThreads, 0, call);
  chooseTokens(on, call, rows);
}

}  // namespace

void sample(const Launch& on, const TensorView& out, const TensorView& logits, const SampleInput& input,
            void* scratch, size_t scratchBytes) {
  const int64_t rows = logits.size[0], vocabulary = logits.size[1];
  const int vectors = vectorsFor(on, rows, vocabulary);

  SampleCall call{};
  call.stride = logits.stride[0];
  call.vocabulary = static_cast<int>(vocabulary);
  call.chunks = divideUp(vocabulary, chunkOf(vectors));
  call.groups = divideUp(vocabulary, kGroup);
  call.massBits = 63;  // the whole vocabulary's mass must fit into 64 bits
  while ((int64_t{1} << (63 - call.massBits)) < vocabulary) call.massBits--;

  // As many rows at once as the scratch memory holds.
  const size_t rowBytes = call.chunks * sizeof(ChunkResult) + call.groups * sizeof(float);
  const auto capacity = static_cast<int64_t>(scratchBytes / rowBytes);
  if (capacity == 0) throw BackendError("The sampler's scratch memory does not hold one row.");
  const int64_t step = std::min(capacity, rows);
  for (int64_t first = 0; first < rows; first += step) {
    call.logits = logits.f32() + first * call.stride;
    call.temperature = input.temperature.f32() + first;
    call.topP = input.topP.f32() + first;
    call.minP = input.minP.f32() + first;
    call.topK = input.topK.i32() + first;
    call.position = input.position.i32() + first;
    call.seed = input.seed.i32() + 2 * first;
    call.out = out.i32() + first;
    call.results = static_cast<ChunkResult*>(scratch);
    call.groupMax = reinterpret_cast<float*>(call.results + step * call.chunks);
    sampleRows(on, call, static_cast<int>(std::min(step, rows - first)), vectors);
  }
}

}  // namespace nanovllm::cuda
