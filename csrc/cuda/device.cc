#include "cuda/device.h"

#include <algorithm>

#include "cuda/launch.cuh"
#include "expect.h"

namespace nanovllm::cuda {
namespace {

constexpr size_t kLoadScratchBytes = size_t{8} << 20;

/// The rung of this name, or null for an empty one.
template <class Rung>
auto findRung(const std::vector<Rung>& rungs, const std::string& name) -> decltype(rungs[0].kernel) {
  if (name.empty()) return nullptr;
  std::string names;
  for (const Rung& rung : rungs) {
    if (name == rung.name) return rung.kernel;
    names += (names.empty() ? "" : ", ") + std::string(rung.name);
  }
  throw BackendError("There is no attention kernel '" + name + "' in this build. It has " + names +
                     ". `npm run bench` and `npm test` build all of them.");
}

}  // namespace

const std::vector<PrefillRung>& prefillRungs() {
  static const std::vector<PrefillRung> rungs = {
#ifdef NANO_CUDA_LADDER
      {"scalar", prefillScalar},
      {"tiled", prefillTiled},
#endif
      {"mma", prefillMma},
      {"wgmma", prefillWgmma},
  };
  return rungs;
}

const std::vector<DecodeRung>& decodeRungs() {
  static const std::vector<DecodeRung> rungs = {
#ifdef NANO_CUDA_LADDER
      {"warp", decodeWarp},
      {"split", decodeSplit},
#endif
      {"packed", decodePacked},
  };
  return rungs;
}

CudaDevice::CudaDevice(const DeviceOptions& options) : options_(options) {
  prefill_ = findRung(prefillRungs(), options.prefillRung);
  decode_ = findRung(decodeRungs(), options.decodeRung);
  int count = 0;
  check(cudaGetDeviceCount(&count), "looking for GPUs");
  if (options.ordinal < 0 || options.ordinal >= count) {
    throw BackendError(
        format("There is no GPU %d: this process can use %d, counted from 0 (nvidia-smi lists the machine's, "
               "CUDA_VISIBLE_DEVICES those a process may use).",
               options.ordinal, count));
  }
  makeCurrent();
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, options.ordinal), "asking for the GPU's properties");
  name_ = properties.name;
  try {
    launch_.arch = compiledArch();
  } catch (const BackendError& error) {
    const bool hopper = properties.major == 9;
    throw BackendError(
        format("The cuda backend was not built for this GPU (%s, compute capability %d.%d): build it with "
               "NANOVLLM_CUDA_ARCH=%d%d%s. %s",
               name_.c_str(), properties.major, properties.minor, properties.major, properties.minor,
               hopper ? "a" : "", error.what()));
  }
  launch_.multiprocessors = properties.multiProcessorCount;
  launch_.programmatic = options.programmatic && launch_.arch >= 90;
  stream_.create();
  launch_.stream = stream_.get();
  staging_ = std::make_unique<Staging>();
  if (Gemm::available() && !options.batchInvariant) gemm_ = std::make_unique<Gemm>();
  decodeScratch_ = allocate(kDecodeScratchBytes);
  sampleScratch_ = allocate(kSampleScratchBytes);
  loadScratch_ = allocate(kLoadScratchBytes);
}

CudaDevice::~CudaDevice() {
  cudaSetDevice(options_.ordinal);
  cudaStreamSynchronize(launch_.stream);  // nothing may run when its memory goes
}

void CudaDevice::makeCurrent() const { check(cudaSetDevice(options_.ordinal), "choosing the GPU"); }

std::string CudaDevice::describe() const {
  return format("cuda: %s, %s%s", name_.c_str(), gemm_ ? "cuBLASLt" : "own matrix product",
                options_.batchInvariant ? ", batch-invariant" : "");
}

void CudaDevice::memoryInfo(size_t& free, size_t& total) const {
  check(cudaMemGetInfo(&free, &total), "asking for free memory");
}

// --- transfers

void CudaDevice::copyIn(const TensorView& tensor, const char* bytes, size_t size) {
  if (!tensor.isContiguous() || tensor.numel() * bytesOf(tensor.dtype) != static_cast<int64_t>(size))
    fail("write", "the tensor", format("a contiguous tensor of %zu bytes", size), tensor.describe());
  staging_->copyIn(tensor.data, bytes, size, launch_.stream);
}

PendingRead CudaDevice::startRead(const TensorView& tensor) {
  if (!tensor.isContiguous()) fail("read", "the tensor", "a contiguous tensor", tensor.describe());
  PendingRead read;
  read.bytes = static_cast<size_t>(tensor.numel()) * bytesOf(tensor.dtype);
  read.landing = landings_.take(read.bytes);
  check(cudaMemcpyAsync(read.landing->memory.data(), tensor.data, read.bytes, cudaMemcpyDeviceToHost,
                        launch_.stream),
        "copying from the GPU");
  read.landing->arrived.record(launch_.stream);
  return read;
}

void CudaDevice::loadRows(const TensorView& weight, int64_t firstRow, const char* bytes, size_t size,
                          DType source) {
  const char* const op = "loadRows";
  expectFloat(op, "weight", weight, weight.rank);
  if (weight.rank < 1 || weight.rank > 2 || !weight.isContiguous())
    fail(op, "weight", "a dense matrix or vector", weight.describe());
  if (source == DType::kInt32) fail(op, "the checkpoint's values", "a float dtype", nameOf(source));
  const int64_t rowLength = weight.rank == 1 ? 1 : weight.size[1];
  const int64_t rowBytes = rowLength * bytesOf(source);
  const int64_t rows = rowBytes == 0 ? 0 : static_cast<int64_t>(size) / rowBytes;
  if (rows * rowBytes != static_cast<int64_t>(size) || firstRow < 0 || firstRow + rows > weight.size[0]) {
    fail(op, "bytes",
         format("whole rows of %lld bytes within rows 0 to %lld", (long long)rowBytes,
                (long long)weight.size[0] - 1),
         format("%zu bytes for row %lld on", size, (long long)firstRow));
  }
  char* target = weight.data + firstRow * rowLength * bytesOf(weight.dtype);
  if (source == weight.dtype) {
    staging_->copyIn(target, bytes, size, launch_.stream);
    return;
  }
  const size_t step = kLoadScratchBytes / bytesOf(source);
  for (size_t done = 0, count = size / bytesOf(source); done < count; done += step) {
    const size_t part = std::min(step, count - done);
    staging_->copyIn(loadScratch_, bytes + done * bytesOf(source), part * bytesOf(source), launch_.stream);
    convert(launch_, target + done * bytesOf(weight.dtype), weight.dtype, loadScratch_, source,
            static_cast<int64_t>(part));
  }
  // Layers may read weights before the kernel before them has ended (launch.cuh). What lies between must not
  // be a kernel.
  check(cudaMemsetAsync(loadScratch_, 0, 1, launch_.stream), "zeroing memory");
}

// --- graphs

void CudaDevice::beginCapture() {
  // Relaxed: another thread may wait for an event meanwhile.
  check(cudaStreamBeginCapture(launch_.stream, cudaStreamCaptureModeRelaxed), "starting a capture");
}

std::unique_ptr<Graph> CudaDevice::endCapture() {
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(launch_.stream, &graph), "ending a capture");
  return std::make_unique<Graph>(graph);
}

namespace {
/// Times what `work` puts into the stream.
template <class Work>
std::vector<float> timed(cudaStream_t stream, int repeats, const Work& work) {
  std::vector<cudaEvent_t> events(repeats + 1);
  for (cudaEvent_t& event : events) check(cudaEventCreate(&event), "creating an event");
  check(cudaEventRecord(events[0], stream), "recording an event");
  for (int i = 0; i < repeats; i++) {
    work();
    check(cudaEventRecord(events[i + 1], stream), "recording an event");
  }
  check(cudaEventSynchronize(events[repeats]), "work on the GPU");
  std::vector<float> milliseconds(repeats);
  for (int i = 0; i < repeats; i++) cudaEventElapsedTime(&milliseconds[i], events[i], events[i + 1]);
  for (cudaEvent_t event : events) cudaEventDestroy(event);
  return milliseconds;
}
}  // namespace

std::vector<float> CudaDevice::timeGraph(const Graph& graph, int repeats) {
  return timed(launch_.stream, repeats, [&] { graph.launch(launch_.stream); });
}

double CudaDevice::copyBandwidth(size_t bytes, int repeats) {
  char* const source = allocate(bytes);
  char* const target = allocate(bytes);
  const std::vector<float> times = timed(launch_.stream, repeats, [&] {
    check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, launch_.stream), "copying");
  });
  memory_.free(source);
  memory_.free(target);
  return 2.0 * static_cast<double>(bytes) / (*std::min_element(times.begin(), times.end()) / 1e3);
}

}  // namespace nanovllm::cuda
