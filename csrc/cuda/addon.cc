// Entry point of the cuda addon, a file of its own so that the cpu backend loads where there is no CUDA.
// What the class shares with the cpu's is in js_device.h. Node destroys a device, and with it all its memory,
// when it is collected or its environment ends.
#include <napi.h>

#include <cstring>
#include <map>

#include "cuda/device.h"
#include "cuda/nccl_binding.h"
#include "cuda/read_worker.h"
#include "js_device.h"

namespace nanovllm::cuda {
namespace {

using Info = Napi::CallbackInfo;

/// The workspace of sdpa.math: three tensors from argument `first` on, or none.
class WorkspaceArg {
 public:
  WorkspaceArg(const Info& info, size_t first) : present_(OptionalTensor(info, first).get() != nullptr) {
    if (present_)
      workspace_ = {tensorArg(info, first), tensorArg(info, first + 1), tensorArg(info, first + 2)};
  }
  const SdpaWorkspace* get() const { return present_ ? &workspace_ : nullptr; }

 private:
  bool present_;
  SdpaWorkspace workspace_;
};

class JsCudaDevice : public JsDevice<JsCudaDevice, CudaDevice> {
 public:
  static Napi::Function define(Napi::Env env) {
    using Self = JsCudaDevice;
    return DefineClass(env, "CudaDevice",
                       {method<&Self::allocate>("allocate"),
                        method<&Self::free>("free"),
                        method<&Self::allocatedBytes>("allocatedBytes"),
                        method<&Self::memoryInfo>("memoryInfo"),
                        method<&Self::describe>("describe"),
                        method<&Self::close>("close"),
                        method<&Self::loadRows>("loadRows"),
                        method<&Self::copyIn>("copyIn"),
                        method<&Self::read>("read"),
                        method<&Self::beginCapture>("beginCapture"),
                        method<&Self::endCapture>("endCapture"),
                        method<&Self::launchGraph>("launchGraph"),
                        method<&Self::freeGraph>("freeGraph"),
                        method<&Self::timeGraph>("timeGraph"),
                        method<&Self::copyBandwidth>("copyBandwidth"),
                        method<&Self::embedding>("embedding"),
                        method<&Self::linear>("linear"),
                        method<&Self::rmsNorm>("rmsNorm"),
                        method<&Self::siluAndMul>("siluAndMul"),
                        method<&Self::rotaryEmbedding>("rotaryEmbedding"),
                        method<&Self::storeKvCache>("storeKvCache"),
                        method<&Self::qkNormRopeStore>("qkNormRopeStore"),
                        method<&Self::attnVarlen>("attnVarlen"),
                        method<&Self::attnWithKvCache>("attnWithKvCache"),
                        method<&Self::gatherRows>("gatherRows"),
                        method<&Self::concatColumns>("concatColumns"),
                        method<&Self::sample>("sample"),
                        method<&Self::gatherTokens>("gatherTokens"),
                        method<&Self::scatterTokens>("scatterTokens")});
  }

  /// new CudaDevice(ordinal, batchInvariant, programmatic, prefillRung, decodeRung)
  explicit JsCudaDevice(const Info& info) : JsDevice(info, "cuda") {
    guarded(info.Env(), [&] {
      DeviceOptions options;
      options.ordinal = intArg(info, 0);
      options.batchInvariant = info[1].ToBoolean();
      options.programmatic = info[2].ToBoolean();
      options.prefillRung = info[3].ToString().Utf8Value();
      options.decodeRung = info[4].ToString().Utf8Value();
      device_ = std::make_shared<CudaDevice>(options);
    });
  }

  /// A thread may have devices on several GPUs.
  void enter() {
    if (device_) device_->makeCurrent();
  }

  std::shared_ptr<CudaDevice> shared() {
    device();
    return device_;
  }

 private:
  /// { free, total }: bytes of the GPU's memory
  Napi::Value memoryInfo(const Info& info) {
    size_t free = 0, total = 0;
    device().memoryInfo(free, total);
    Napi::Object result = Napi::Object::New(info.Env());
    result.Set("free", Napi::Number::New(info.Env(), static_cast<double>(free)));
    result.Set("total", Napi::Number::New(info.Env(), static_cast<double>(total)));
    return result;
  }

  void close(const Info&) {
    graphs_.clear();
    device_
        .reset();  // a read that is still under way, or a communicator, keeps the device until it has ended
  }

  void copyIn(const Info& info) {
    const Bytes bytes = bytesArg(info, 1);
    device().copyIn(tensorArg(info, 0), bytes.data, bytes.size);
  }

  /// (tensor, typed array of as many bytes): a promise that resolves when the array is filled
  Napi::Value read(const Info& info) {
    const TensorView tensor = tensorArg(info, 0);
    const Bytes bytes = bytesArg(info, 1);
    if (tensor.numel() * bytesOf(tensor.dtype) != static_cast<int64_t>(bytes.size))
      throw TensorError(format("read: Expected an array for %s but received %zu bytes.",
                               tensor.describe().c_str(), bytes.size));
    auto* const worker =  // deletes itself when it is done
        new ReadWorker(info.Env(), device_, device().startRead(tensor), info[1].As<Napi::TypedArray>());
    const Napi::Promise promise = worker->promise();
    worker->Queue();
    return promise;
  }

  void beginCapture(const Info&) { device().beginCapture(); }

  /// The number of the new graph.
  Napi::Value endCapture(const Info& info) {
    graphs_[++lastGraph_] = device().endCapture();
    return Napi::Number::New(info.Env(), lastGraph_);
  }

  const Graph& graph(const Info& info) {
    device();
    const auto found = graphs_.find(intArg(info, 0));
    if (found == graphs_.end()) throw BackendError("This graph was freed.");
    return *found->second;
  }

  void launchGraph(const Info& info) { device().launchGraph(graph(info)); }
  void freeGraph(const Info& info) { graphs_.erase(intArg(info, 0)); }

  /// (graph, repeats): milliseconds of each launch
  Napi::Value timeGraph(const Info& info) {
    const std::vector<float> times = device().timeGraph(graph(info), intArg(info, 1));
    Napi::Float32Array result = Napi::Float32Array::New(info.Env(), times.size());
    memcpy(result.Data(), times.data(), times.size() * sizeof(float));
    return result;
  }

  /// (bytes, repeats): bytes read and written a second
  Napi::Value copyBandwidth(const Info& info) {
    return Napi::Number::New(
        info.Env(), device().copyBandwidth(static_cast<size_t>(numberArg(info, 0)), intArg(info, 1)));
  }

  /// (out, x, weight, bias | null, accumulate, siluAndMul)
  void linear(const Info& info) {
    const OptionalTensor bias(info, 3);
    GemvArgs args;
    args.out = tensorArg(info, 0);
    args.x = tensorArg(info, 1);
    args.weight = tensorArg(info, 2);
    if (bias.get()) args.bias = *bias.get();
    args.accumulate = info[4].ToBoolean();
    args.swiglu = info[5].ToBoolean();
    device().linear(args);
  }

  /// (q, k, v, qWeight, kWeight, eps, positions, cosSin, kCache, vCache, slotMapping)
  void qkNormRopeStore(const Info& info) {
    device().qkNormRopeStore({tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2), tensorArg(info, 3),
                              tensorArg(info, 4), floatArg(info, 5), tensorArg(info, 6), tensorArg(info, 7),
                              tensorArg(info, 8), tensorArg(info, 9), tensorArg(info, 10)});
  }

  /// (out, q, k, v, cuSeqlensQ, cuSeqlensK, blockTables | null, maxSeqlenQ, maxSeqlenK, scale, causal,
  /// workspace k, v, scores)
  void attnVarlen(const Info& info) {
    const TensorView cuSeqlensQ = tensorArg(info, 4), cuSeqlensK = tensorArg(info, 5);
    const OptionalTensor blocks(info, 6);
    const WorkspaceArg workspace(info, 11);
    PrefillArgs args{};
    args.out = tensorArg(info, 0);
    args.q = tensorArg(info, 1);
    args.k = tensorArg(info, 2);
    args.v = tensorArg(info, 3);
    args.blockTables = blocks.get() ? blocks.get()->i32() : nullptr;
    args.blockTableStride = blocks.get() ? blocks.get()->stride[0] : 0;
    args.batch = static_cast<int>(cuSeqlensQ.size[0]) - 1;
    args.maxSeqlenQ = intArg(info, 7);
    args.maxSeqlenK = intArg(info, 8);
    args.scale = floatArg(info, 9);
    args.causal = info[10].ToBoolean();
    device().attnVarlen(cuSeqlensQ, cuSeqlensK, args, workspace.get());
  }

  /// (out, q, kCache, vCache, contextLens, blockTables, maxContextLen, scale, workspace k, v, scores)
  void attnWithKvCache(const Info& info) {
    const TensorView blocks = tensorArg(info, 5);
    const WorkspaceArg workspace(info, 8);
    DecodeArgs args{};
    args.out = tensorArg(info, 0);
    args.q = tensorArg(info, 1);
    args.kCache = tensorArg(info, 2);
    args.vCache = tensorArg(info, 3);
    args.blockTables = blocks.i32();
    args.blockTableStride = blocks.stride[0];
    args.maxContextLen = intArg(info, 6);
    args.scale = floatArg(info, 7);
    device().attnWithKvCache(tensorArg(info, 4), args, workspace.get());
  }

  std::map<int, std::unique_ptr<Graph>> graphs_;
  int lastGraph_ = 0;
};

/// Names of a ladder's rungs, lowest first.
template <class Rung>
Napi::Value names(Napi::Env env, const std::vector<Rung>& rungs) {
  Napi::Array result = Napi::Array::New(env, rungs.size());
  for (size_t i = 0; i < rungs.size(); i++) result.Set(static_cast<uint32_t>(i), rungs[i].name);
  return result;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("CudaDevice", JsCudaDevice::define(env));
  exportNccl(env, exports);
  exports.Set("prefillRungs", names(env, prefillRungs()));
  exports.Set("decodeRungs", names(env, decodeRungs()));
  /// GPUs this process can use; 0 where there is no driver.
  exports.Set("deviceCount", Napi::Function::New(env, [](const Info& info) {
                int count = 0;
                if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
                cudaGetLastError();
                return Napi::Number::New(info.Env(), count);
              }));
  return exports;
}

}  // namespace

std::shared_ptr<CudaDevice> deviceOf(const Napi::Value& device) {
  return JsCudaDevice::Unwrap(device.As<Napi::Object>())->shared();
}

}  // namespace nanovllm::cuda

static Napi::Object initCuda(Napi::Env env, Napi::Object exports) {
  return nanovllm::cuda::init(env, exports);
}

NODE_API_MODULE(nanovllm_cuda, initCuda)
