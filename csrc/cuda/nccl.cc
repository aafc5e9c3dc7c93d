// NCCL is loaded when it is first needed, and the few things used of its header are declared here. So the
// addon builds and loads where there is no NCCL, and takes any version of the library it finds.
//
// Two threads beside JavaScript's keep a lost rank from stopping the program. Ranks look for each other on a
// thread of its own, since NCCL returns from that when the last one has come, which may be never. (NCCL can
// also be told not to block, but then in all its calls: each collective starts a thread that launches its
// kernel, and that takes several times as long as the launch.) And `ncclCommAbort` runs on a thread of its
// own, since it returns when the last graph that holds kernels of NCCL's is freed, which is up to JavaScript.
// What it does first is what matters: kernels that wait for other ranks end.
//
// What is left to JavaScript's thread is to launch, which waits for nobody: see NCCL_RUNTIME_CONNECT.
#include "cuda/nccl.h"

#include <dlfcn.h>

#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "cuda/launch.cuh"
#include "expect.h"

namespace nanovllm::cuda {
namespace {

using namespace std::chrono_literals;

/// A barrier may wait for a rank that still reads its weights. This long it blocks JavaScript at most.
constexpr auto kBarrierPatience = 120s;
constexpr auto kClosePatience = 5s;
/// Graphs that are still alive when a communicator is closed cost this much time.
constexpr auto kAbortPatience = 2s;

// --- what is used of nccl.h; it is the same in all of version 2

using Comm = ncclComm*;
enum Result : int { kSuccess = 0 };
enum DataType : int { kInt32 = 2, kFloat16 = 6, kFloat32 = 7, kBfloat16 = 9 };
enum RedOp : int { kSum = 0 };

struct Library {
  Result (*getVersion)(int* version);
  Result (*getUniqueId)(NcclId* id);
  Result (*commInitRank)(Comm* comm, int worldSize, NcclId id, int rank);
  Result (*commAbort)(Comm comm);
  Result (*commGetAsyncError)(Comm comm, Result* error);
  const char* (*getErrorString)(Result result);
  const char* (*getLastError)(Comm comm);
  Result (*allReduce)(const void* in, void* out, size_t count, DataType, RedOp, Comm, cudaStream_t);
  Result (*allGather)(const void* in, void* out, size_t count, DataType, Comm, cudaStream_t);
  Result (*broadcast)(const void* in, void* out, size_t count, DataType, int root, Comm, cudaStream_t);

  Library();
};

void* openLibrary() {
  const char* const chosen = getenv("NANOVLLM_NCCL");
  const bool isChosen = chosen && *chosen;
  std::string tried;
  for (const char* name : isChosen ? std::vector{chosen} : std::vector{"libnccl.so.2", "libnccl.so"}) {
    if (void* const library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
    tried += std::string("\n  ") + dlerror();
  }
  throw BackendError("NCCL, NVIDIA's library for work on several GPUs, could not be loaded:" + tried +
                     "\n- Install it: the package is libnccl2, or nvidia-nccl-cu13 from pip.\n"
                     "- NANOVLLM_NCCL=/path/to/libnccl.so.2 says where it lies; with pip that is "
                     "site-packages/nvidia/nccl/lib.");
}

template <class Function>
void find(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  if (!function)
    throw BackendError(format("This NCCL has no %s: version 2.13 or newer is needed (NANOVLLM_NCCL).", name));
}

Library::Library() {
  // Defaults of ours; what the user has set stays. NVLink multicast needs rights that containers and virtual
  // machines often lack, and NCCL fails there instead of doing without.
  setenv("NCCL_NVLS_ENABLE", "0", 0);
  // All connections are made while the ranks look for each other. Otherwise the first collective of its kind
  // makes them, and waits for the other ranks to come there.
  setenv("NCCL_RUNTIME_CONNECT", "0", 0);
  // Collectives of graphs and those launched one by one never overlap here: there is one stream. Not having
  // to allow for it saves a twentieth of a decode step.
  setenv("NCCL_GRAPH_MIXING_SUPPORT", "0", 0);
  void* const library = openLibrary();
  find(library, "ncclGetVersion", getVersion);
  find(library, "ncclGetUniqueId", getUniqueId);
  find(library, "ncclCommInitRank", commInitRank);
  find(library, "ncclCommAbort", commAbort);
  find(library, "ncclCommGetAsyncError", commGetAsyncError);
  find(library, "ncclGetErrorString", getErrorString);
  find(library, "ncclGetLastError", getLastError);
  find(library, "ncclAllReduce", allReduce);
  find(library, "ncclAllGather", allGather);
  find(library, "ncclBroadcast", broadcast);
}

/// Loaded by the first call, for the whole process; one that fails is tried again.
const Library& nccl() {
  static const Library library;
  return library;
}

std::string describe(const char* what, Result result) {
  const char* const detail = nccl().getLastError(nullptr);
  return std::string("NCCL: ") + what + " failed: " + nccl().getErrorString(result) +
         (detail && *detail ? std::string(" (") + detail + ")." : ".");
}

void checkNccl(Result result, const char* what) {
  if (result != kSuccess) throw BackendError(describe(what, result));
}

DataType dataType(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return kFloat32;
    case DType::kBFloat16:
      return kBfloat16;
    case DType::kFloat16:
      return kFloat16;
    default:
      return kInt32;
  }
}

void expectDense(const char* op, const char* name, const TensorView& tensor) {
  expect(op, name, tensor, tensor.rank, tensor.dtype);
  if (!tensor.isContiguous()) fail(op, name, "a contiguous tensor", tensor.describe());
}

}  // namespace

NcclId makeNcclId() {
  NcclId id;
  checkNccl(nccl().getUniqueId(&id), "making an id");
  return id;
}

std::string ncclVersion() {
  int version = 0;
  checkNccl(nccl().getVersion(&version), "asking for its version");
  return format("%d.%d.%d", version / 10000, version / 100 % 100, version % 100);
}

// --- the life of a communicator

struct Communicator::State {
  enum Phase { kLooking, kReady, kFailed, kEnding, kEnded };

  mutable std::mutex mutex;
  mutable std::condition_variable changed;
  Phase phase = kLooking;
  Comm comm = nullptr;  // from kReady on
  std::string problem;  // when kFailed

  void enter(Phase next) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      phase = next;
    }
    changed.notify_all();
  }

  /// What NCCL's communicator has is given back; kernels of it that wait end at once.
  void end(int ordinal) {
    cudaSetDevice(ordinal);
    nccl().commAbort(comm);
    enter(kEnded);
  }

  void look(int ordinal, const NcclId& id, int rank, int worldSize) {
    cudaSetDevice(ordinal);
    Comm found = nullptr;
    const Result result = nccl().commInitRank(&found, worldSize, id, rank);
    bool isWanted;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      isWanted = phase == kLooking;
      comm = found;
      if (result != kSuccess) {
        problem = describe("looking for the other ranks", result);
        phase = kFailed;
      } else if (isWanted) {
        phase = kReady;
      }
    }
    if (result == kSuccess && !isWanted) end(ordinal);
  }
};

Communicator::Communicator(const Place& place, const NcclId& id, int rank, int worldSize)
    : place_(place), worldSize_(worldSize), state_(std::make_shared<State>()) {
  if (worldSize < 1 || rank < 0 || rank >= worldSize)
    throw BackendError(format("There is no rank %d among %d.", rank, worldSize));
  nccl();  // an error of loading it is thrown here, not on the thread
  std::thread([state = state_, ordinal = place.ordinal, id, rank, worldSize] {
    state->look(ordinal, id, rank, worldSize);
  }).detach();
}

Communicator::~Communicator() { close(); }

bool Communicator::ready() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  if (state_->phase == State::kFailed) throw BackendError(state_->problem);
  return state_->phase == State::kReady;
}

void Communicator::abort() {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  const State::Phase before = state_->phase;
  if (before != State::kReady && before != State::kLooking) return;
  state_->phase = State::kEnding;
  // A thread that still looks for other ranks ends it when it finds them. If it never does, it sleeps until
  // the process ends: NCCL has no safe way to wake it.
  if (before == State::kReady)
    std::thread([state = state_, ordinal = place_.ordinal] { state->end(ordinal); }).detach();
}

bool Communicator::close() {
  if (std::exchange(isClosed_, true)) return true;
  State& state = *state_;
  bool isDone = true;
  try {
    if (ready()) isDone = waitForStream(kClosePatience);
  } catch (const BackendError&) {
    isDone = false;  // a rank is lost, or the stream has failed: there is nothing to wait for
  }
  // Abort and not ncclCommDestroy, which may wait for ranks that have ended without a word.
  abort();
  std::unique_lock<std::mutex> lock(state.mutex);
  if (state.comm) state.changed.wait_for(lock, kAbortPatience, [&] { return state.phase != State::kEnding; });
  return isDone;
}

Comm Communicator::handle(const char* what) const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  if (state_->phase != State::kReady)
    throw BackendError(format("NCCL: %s: the ranks of this group are not, or no longer, connected.", what));
  return state_->comm;
}

bool Communicator::waitForStream(std::chrono::milliseconds patience) const {
  const Comm comm = handle("waiting");
  const auto end = std::chrono::steady_clock::now() + patience;
  while (true) {
    const cudaError_t status = cudaStreamQuery(place_.stream);
    if (status == cudaSuccess) return true;
    if (status != cudaErrorNotReady) check(status, "work on the GPU");
    Result error = kSuccess;
    checkNccl(nccl().commGetAsyncError(comm, &error), "asking for errors");
    checkNccl(error, "a collective");
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(50us);
  }
}

// --- collectives

void Communicator::allReduce(const TensorView& x) {
  const char* const op = "allReduce";
  expectDense(op, "x", x);
  checkNccl(nccl().allReduce(x.data, x.data, x.numel(), dataType(x.dtype), kSum, handle(op), place_.stream),
            op);
}

void Communicator::allGather(const TensorView& out, const TensorView& x) {
  const char* const op = "allGather";
  expectDense(op, "x", x);
  expectDense(op, "out", out);
  if (out.dtype != x.dtype) fail(op, "out", nameOf(x.dtype), out.describe());
  expectSize(op, "elements of out", out.numel(), worldSize_ * x.numel());
  checkNccl(nccl().allGather(x.data, out.data, x.numel(), dataType(x.dtype), handle(op), place_.stream), op);
}

void Communicator::broadcast(const TensorView& x, int root) {
  const char* const op = "broadcast";
  expectDense(op, "x", x);
  if (root < 0 || root >= worldSize_)
    fail(op, "root", format("a rank below %d", worldSize_), std::to_string(root));
  checkNccl(nccl().broadcast(x.data, x.data, x.numel(), dataType(x.dtype), root, handle(op), place_.stream),
            op);
}

void Communicator::barrier() {
  allReduce(place_.meetingPoint);
  if (waitForStream(kBarrierPatience)) return;
  throw BackendError(format("A rank did not come to a barrier within %d seconds.",
                            static_cast<int>(std::chrono::seconds(kBarrierPatience).count())));
}

}  // namespace nanovllm::cuda
