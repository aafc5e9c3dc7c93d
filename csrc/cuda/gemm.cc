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
  Owned(Owned&& other) noexcept { *this = std::move(other); }
  Owned& operator=(Owned&& other) noexcept {
    std::swap(handle, other.handle);
    return *this;
  }
  ~Owned() {
    if (handle) destroy(handle);
  }
};
using MatmulDesc = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using MatrixLayout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

/// A matrix whose `rows` lie one after the other, `stride` elements apart.
MatrixLayout layoutOf(DType dtype, int64_t rows, int64_t columns, int64_t stride) {
  MatrixLayout layout;
  checkLt(cublasLtMatrixLayoutCreate(&layout.handle, dataType(dtype), columns, rows, stride),
          "making a layout");
  return layout;
}

struct Plan {
  MatmulDesc operation;
  MatrixLayout weight, x, out;
  cublasLtMatmulAlgo_t algorithm{};
};

}  // namespace

struct Gemm::State {
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, DType, DType>;
  Owned<cublasLtHandle_t, cublasLtDestroy> lt;
  void* workspace = nullptr;
  std::map<Key, Plan> plans;

  ~State() { cudaFree(workspace); }

  const Plan& planFor(const LinearArgs& args) {
    const TensorView &out = args.out, &x = args.x, &weight = args.weight;
    const Key key{x.size[0],        weight.size[0], weight.size[1], x.stride[0],
                  weight.stride[0], out.stride[0],  x.dtype,        out.dtype};
    const auto known = plans.find(key);
    if (known != plans.end()) return known->second;
    Plan plan;
    checkLt(cublasLtMatmulDescCreate(&plan.operation.handle, CUBLAS_COMPUTE_32F, CUDA_R_32F),
            "describing a product");
    const cublasOperation_t transpose = CUBLAS_OP_T;
    checkLt(cublasLtMatmulDescSetAttribute(plan.operation.handle, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                           sizeof transpose),
            "describing a product");
    plan.weight = layoutOf(weight.dtype, weight.size[0], weight.size[1], weight.stride[0]);
    plan.x = layoutOf(x.dtype, x.size[0], x.size[1], x.stride[0]);
    plan.out = layoutOf(out.dtype, out.size[0], out.size[1], out.stride[0]);
    Preference preference;
    checkLt(cublasLtMatmulPreferenceCreate(&preference.handle), "setting a preference");
    checkLt(cublasLtMatmulPreferenceSetAttribute(preference.handle, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                 &kWorkspaceBytes, sizeof kWorkspaceBytes),
            "setting a preference");
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    checkLt(
        cublasLtMatmulAlgoGetHeuristic(lt.handle, plan.operation.handle, plan.weight.handle, plan.x.handle,
                                       plan.out.handle, plan.out.handle, preference.handle, 1, &best, &found),
        "choosing an algorithm");
    if (found == 0) {
      throw BackendError(
          format("cuBLASLt has no algorithm for %s · %sᵀ.", x.describe().c_str(), weight.describe().c_str()));
    }
    plan.algorithm = best.algo;
    return plans.emplace(key, std::move(plan)).first->second;
  }
};

Gemm::Gemm() : state_(std::make_unique<State>()) {
  checkLt(cublasLtCreate(&state_->lt.handle), "starting");
  check(cudaMalloc(&state_->workspace, kWorkspaceBytes), "allocating cuBLASLt's workspace");
}

Gemm::~Gemm() = default;

bool Gemm::available() { return true; }

void Gemm::run(const Launch& on, const LinearArgs& args) {
  if (args.x.size[0] == 0) return;
  const Plan& plan = state_->planFor(args);
  const float one = 1, beta = args.accumulate ? 1 : 0;  // out = 1 · product + beta · out
  checkLt(cublasLtMatmul(state_->lt.handle, plan.operation.handle, &one, args.weight.data, plan.weight.handle,
                         args.x.data, plan.x.handle, &beta, args.out.data, plan.out.handle, args.out.data,
                         plan.out.handle, &plan.algorithm, state_->workspace, kWorkspaceBytes, on.stream),
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
