// Attention as in the textbook: gather all keys and values into dense buffers, compute all scores, softmax,
// weighted sum. Four kernels, each of which reads from memory what the one before it wrote there.
//
// The baseline that shows what flash attention (attention/) saves: the gather copies the whole context at
// every step, twice as wide, and the scores take queries × keys memory, which is written three times and read
// four. Flash attention keeps a tile of scores on the chip, and never has them all.
//
// Decoding handles the whole batch at once (W = B in the workspace), prefill one sequence after the other (W
// = 1).
#include "cuda/launch.cuh"
#include "cuda/numbers.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kTile = 32;  // keys of one block of scoresKernel

/// PrefillArgs and DecodeArgs alike. Sequence lengths are on the device: grids are made for the longest, and
/// blocks beyond a sequence's end do nothing.
template <class T>
struct Attention {
  TensorView out, q, k, v;    // k and v: [S, Hkv, D], or with tables [NB, BS, Hkv, D]
  TensorView denseK, denseV;  // float32 [W, maxKeys, Hkv, D]
  TensorView scores;          // float32 [W, Hq, maxQueries, maxKeys]
  const int32_t *cuQ, *cuK;   // prefill: where sequences start, [B + 1]
  const int32_t* lengths;     // decode: [B]
  const int32_t* tables;      // [B, tableRow] or null
  int64_t tableRow;
  int firstSequence;  // this launch handles W sequences from here on
  int maxQueries, maxKeys;
  float scale;
  bool causal;

  __device__ int64_t firstQuery(int b) const { return cuQ ? cuQ[b] : b; }
  __device__ int queries(int b) const { return cuQ ? cuQ[b + 1] - cuQ[b] : 1; }
  __device__ int keys(int b) const { return lengths ? lengths[b] : cuK[b + 1] - cuK[b]; }
  /// Keys which query i sees. The last query sees all.
  __device__ int visible(int b, int i) const {
    return causal ? max(0, keys(b) - queries(b) + i + 1) : keys(b);
  }

  /// Key or value j of sequence b, in `from`, which is k or v.
  __device__ const T* keyAt(const TensorView& from, int b, int j, int head) const {
    const T* const data = reinterpret_cast<const T*>(from.data);
    if (!tables) return data + int64_t{cuK[b] + j} * from.stride[0] + head * from.stride[1];
    const int blockSize = static_cast<int>(from.size[1]);
    const int64_t block = tables[b * tableRow + j / blockSize];
    return data + block * from.stride[0] + j % blockSize * from.stride[1] + head * from.stride[2];
  }
  __device__ float* denseAt(const TensorView& dense, int w, int j, int head) const {
    return reinterpret_cast<float*>(dense.data) + w * dense.stride[0] + j * dense.stride[1] +
           head * dense.stride[2];
  }
  __device__ float* scoresAt(int w, int head, int i) const {
    return reinterpret_cast<float*>(scores.data) + w * scores.stride[0] + head * scores.stride[1] +
           i * scores.stride[2];
  }
  __device__ int dim() const { return static_cast<int>(q.size[2]); }
  __device__ int kvHeadOf(int head) const { return head / static_cast<int>(q.size[1] / denseK.size[2]); }
};

/// Grid [maxKeys, Hkv, W], a thread a dim.
template <class T>
__global__ void gatherKernel(const Attention<T> a) {
  launchDependents();
  waitForPrevious();
  const int j = blockIdx.x, head = blockIdx.y, w = blockIdx.z, b = a.firstSequence + w;
  if (j >= a.keys(b)) return;
  const T *const key = a.keyAt(a.k, b, j, head), *const value = a.keyAt(a.v, b, j, head);
  float *const toKey = a.denseAt(a.denseK, w, j, head), *const toValue = a.denseAt(a.denseV, w, j, head);
  for (int d = threadIdx.x; d < a.dim(); d += blockDim.x) {
    toKey[d] = toFloat(key[d]);
    toValue[d] = toFloat(value[d]);
  }
}

/// scores[w, head, i, j] = q·k · scale. Grid [maxQueries · tiles of keys, Hq, W], a warp a key.
template <class T>
__global__ void __launch_bounds__(kThreads) scoresKernel(const Attention<T> a) {
  launchDependents();
  waitForPrevious();
  const int tiles = (a.maxKeys + kTile - 1) / kTile;
  const int i = blockIdx.x / tiles, tile = blockIdx.x % tiles, head = blockIdx.y, w = blockIdx.z;
  const int b = a.firstSequence + w, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (i >= a.queries(b)) return;
  const T* const query =
      reinterpret_cast<const T*>(a.q.data) + (a.firstQuery(b) + i) * a.q.stride[0] + head * a.q.stride[1];
  const int end = min((tile + 1) * kTile, a.visible(b, i));
  for (int j = tile * kTile + warp; j < end; j += kWarps) {
    const float* const key = a.denseAt(a.denseK, w, j, a.kvHeadOf(head));
    float dot = 0.0f;
    for (int d = lane; d < a.dim(); d += kWarp) dot += toFloat(query[d]) * key[d];
    dot = warpSum(dot);
    if (lane == 0) a.scoresAt(w, head, i)[j] = dot * a.scale;
  }
}

/// scores = softmax(scores) over the keys a query sees. Grid [maxQueries, Hq, W], a warp a row.
template <class T>
__global__ void __launch_bounds__(kWarp) softmaxKernel(const Attention<T> a) {
  launchDependents();
  waitForPrevious();
  const int i = blockIdx.x, head = blockIdx.y, w = blockIdx.z, b = a.firstSequence + w, lane = threadIdx.x;
  if (i >= a.queries(b)) return;
  float* const row = a.scoresAt(w, head, i);
  const int visible = a.visible(b, i);
  float largest = -INFINITY, sum = 0.0f;
  for (int j = lane; j < visible; j += kWarp) largest = fmaxf(largest, row[j]);
  largest = warpMax(largest);
  for (int j = lane; j < visible; j += kWarp) {
    row[j] = __expf(row[j] - largest);
    sum += row[j];
  }
  const float inverse = 1.0f / warpSum(sum);
  for (int j = lane; j < visible; j += kWarp) row[j] *= inverse;
}

/// out[query, head] = Σ scores·v; no keys give zeros. Grid [maxQueries, Hq, W], a thread a dim.
template <class T>
__global__ void weightedSumKernel(const Attention<T> a) {
  launchDependents();
  waitForPrevious();
  const int i = blockIdx.x, head = blockIdx.y, w = blockIdx.z, b = a.firstSequence + w;
  if (i >= a.queries(b)) return;
  const float *const row = a.scoresAt(w, head, i), *const values =
                                                       a.denseAt(a.denseV, w, 0, a.kvHeadOf(head));
  T* const out =
      reinterpret_cast<T*>(a.out.data) + (a.firstQuery(b) + i) * a.out.stride[0] + head * a.out.stride[1];
  const int visible = a.visible(b, i);
  for (int d = threadIdx.x; d < a.dim(); d += blockDim.x) {
    float sum = 0.0f;
    for (int j = 0; j < visible; j++) sum += row[j] * values[j * a.denseV.stride[1] + d];
    out[d] = fromFloat<T>(sum);
  }
}

template <class T>
void attend(const Launch& on, const Attention<T>& a, int sequences) {
  const auto queries = static_cast<unsigned>(a.maxQueries), keys = static_cast<unsigned>(a.maxKeys);
  const auto heads = static_cast<unsigned>(a.q.size[1]), kvHeads = static_cast<unsigned>(a.denseK.size[2]);
  const auto w = static_cast<unsigned>(sequences);
  const int64_t dim = a.q.size[2];
  const unsigned dims = dim < 256 ? static_cast<unsigned>(dim) : 256;
  launch(on, "sdpaMath gather", gatherKernel<T>, dim3(keys, kvHeads, w), dims, 0, a);
  launch(on, "sdpaMath scores", scoresKernel<T>, dim3(queries * ((keys + kTile - 1) / kTile), heads, w),
         kThreads, 0, a);
  launch(on, "sdpaMath softmax", softmaxKernel<T>, dim3(queries, heads, w), kWarp, 0, a);
  launch(on, "sdpaMath weighted sum", weightedSumKernel<T>, dim3(queries, heads, w), dims, 0, a);
}

}  // namespace

void sdpaMathPrefill(const Launch& on, const PrefillArgs& a, const SdpaWorkspace& workspace) {
  dispatch(a.q.dtype, [&](auto zero) {
    for (int b = 0; b < a.batch; b++) {
      attend(on,
             Attention<decltype(zero)>{a.out, a.q, a.k, a.v, workspace.k, workspace.v, workspace.scores,
                                       a.cuSeqlensQ, a.cuSeqlensK, nullptr, a.blockTables, a.blockTableStride,
                                       b, a.maxSeqlenQ, a.maxSeqlenK, a.scale, a.causal},
             1);
    }
  });
}

void sdpaMathDecode(const Launch& on, const DecodeArgs& a, const SdpaWorkspace& workspace) {
  dispatch(a.q.dtype, [&](auto zero) {
    attend(on,
           Attention<decltype(zero)>{a.out, a.q, a.kCache, a.vCache, workspace.k, workspace.v,
                                     workspace.scores, nullptr, nullptr, a.contextLens, a.blockTables,
                                     a.blockTableStride, 0, 1, a.maxContextLen, a.scale, false},
           a.batch());
  });
}

}  // namespace nanovllm::cuda
