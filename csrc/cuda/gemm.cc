// cuBLASLt has no row-major layout: it sees every matrix with rows and columns exchanged. So out[T, N] = x[T,
// K] · weight[N, K]ᵀ becomes out'[N, T] = weight'ᵀ · x', where weight' is K × N and x' is K × T, all column
// after column. No data moves.
#include "cuda/gemm.h"

#ifdef NANO_HAVE_CUBLASLT
#include <cublasLt.h>

#include <map>
#include <tuple>

#include "cuda/launch.cuh"
#endif

namespace nanovllm::cuda {

#ifdef NANO_HAVE_CUBLASLT

namespace {

/// What NVIDIA recommends for Hopper; algorithms that split K keep partial sums there.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;

void checkLt(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw BackendError(format("cuBLASLt: %s failed: %s.", what, cublasLtGetStatusString(status)));
}

cudaDataType_t dataType(DType dtype) {
  if (dtype == DType::kBFloat16) return CUDA_R_16BF;
  return dtype == DType::kFloat16 ? CUDA_R_16F : CUDA_R_32F;
}

/// cuBLASLt's handles are plain pointers with a create and a destroy function.
template <class Handle, cublasStatus_t (*destroy)(Handle)>
struct Owned {
  Handle handle = nullptr;
  Owned() = default;
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() {
    if (handle) destroy(handle);
  }
};
using MatmulDesc = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

/// A matrix whose `rows` lie one after the other, `stride` elements apart.
cublasLtMatrixLayoutOpaque_t layoutOf(const TensorView& matrix, int64_t rows) {
  cublasLtMatrixLayoutOpaque_t layout;
  checkLt(cublasLtMatrixLayoutInit(&layout, dataType(matrix.dtype), matrix.size[1], rows, matrix.stride[0]),
          "describing a matrix");
  return layout;
}

/// The number of rows for which an algorithm is chosen. Prompts come in every length: were each number of
/// rows a question of its own, a server would ask for hours, and remember every answer. So large ones are
/// rounded up to whole tiles, of which there are as many as before.
int64_t rowsToPlanFor(int64_t rows) {
  constexpr int64_t kExact = 256, kTile = 128;
  return rows <= kExact ? rows : (rows + kTile - 1) / kTile * kTile;
}

}  // namespace

struct Gemm::State {
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, DType, DType>;
  Owned<cublasLtHandle_t, cublasLtDestroy> lt;
  MatmulDesc product;  // out = x · weightᵀ, sums in float32
  Preference preference;
  void* workspace = nullptr;
  std::map<Key, cublasLtMatmulAlgo_t> algorithms;

  State() {
    checkLt(cublasLtCreate(&lt.handle), "starting");
    checkLt(cublasLtMatmulDescCreate(&product.handle, CUBLAS_COMPUTE_32F, CUDA_R_32F),
            "describing a product");
    const cublasOperation_t transpose = CUBLAS_OP_T;
    checkLt(cublasLtMatmulDescSetAttribute(product.handle, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                           sizeof transpose),
            "describing a product");
    checkLt(cublasLtMatmulPreferenceCreate(&preference.handle), "setting a preference");
    checkLt(cublasLtMatmulPreferenceSetAttribute(preference.handle, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                 &kWorkspaceBytes, sizeof kWorkspaceBytes),
            "setting a preference");
    check(cudaMalloc(&workspace, kWorkspaceBytes), "allocating cuBLASLt's workspace");
  }
  ~State() { cudaFree(workspace); }

  const cublasLtMatmulAlgo_t& algorithmFor(const LinearArgs& args) {
    const TensorView &out = args.out, &x = args.x, &weight = args.weight;
    const int64_t rows = rowsToPlanFor(x.size[0]);
    const Key key{rows,          weight.size[0], weight.size[1], x.stride[0], weight.stride[0],
                  out.stride[0], x.dtype,        out.dtype};
    const auto known = algorithms.find(key);
    if (known != algorithms.end()) return known->second;
    cublasLtMatrixLayoutOpaque_t weightLayout = layoutOf(weight, weight.size[0]);
    cublasLtMatrixLayoutOpaque_t xLayout = layoutOf(x, rows), outLayout = layoutOf(out, rows);
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    checkLt(cublasLtMatmulAlgoGetHeuristic(lt.handle, product.handle, &weightLayout, &xLayout, &outLayout,
                                           &outLayout, preference.handle, 1, &best, &found),
            "choosing an algorithm");
    if (found == 0) {
      throw BackendError(
          format("cuBLASLt has no algorithm for %s · %sᵀ.", x.describe().c_str(), weight.describe().c_str()));
    }
    return algorithms.emplace(key, best.algo).first->second;
  }
};

Gemm::Gemm() : state_(std::make_unique<State>()) {}

Gemm::~Gemm() = default;

bool Gemm::available() { return true; }

void Gemm::run(const Launch& on, const LinearArgs& args) {
  if (args.x.size[0] == 0) return;
  const TensorView &out = args.out, &x = args.x, &weight = args.weight;
  const cublasLtMatmulAlgo_t& algorithm = state_->algorithmFor(args);
  cublasLtMatrixLayoutOpaque_t weightLayout = layoutOf(weight, weight.size[0]);
  cublasLtMatrixLayoutOpaque_t xLayout = layoutOf(x, x.size[0]), outLayout = layoutOf(out, out.size[0]);
  const float one = 1, beta = args.accumulate ? 1 : 0;  // out = 1 · product + beta · out
  checkLt(cublasLtMatmul(state_->lt.handle, state_->product.handle, &one, weight.data, &weightLayout, x.data,
                         &xLayout, &beta, out.data, &outLayout, out.data, &outLayout, &algorithm,
                         state_->workspace, kWorkspaceBytes, on.stream),
          "a matrix product");
}

#else

struct Gemm::State {};
Gemm::Gemm() = default;
Gemm::~Gemm() = default;
bool Gemm::available() { return false; }
void Gemm::run(const Launch&, const LinearArgs&) { throw BackendError("This build has no cuBLASLt."); }

#endif

}  // namespace nanovllm::cuda
