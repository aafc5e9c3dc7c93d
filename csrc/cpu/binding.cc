// CpuDevice as a JavaScript class. Tensors arrive as descriptors; see js_args.h. Node destroys the object,
// and with it threads and memory, when it is collected or its environment (the process, a worker) ends.
#include "cpu/binding.h"

#include <cstring>
#include <memory>

#include "cpu/device.h"
#include "js_args.h"

namespace nanovllm {
namespace {

using Info = Napi::CallbackInfo;

class JsCpuDevice : public Napi::ObjectWrap<JsCpuDevice> {
 public:
  static Napi::Function define(Napi::Env env) {
    using Self = JsCpuDevice;
    return DefineClass(env, "CpuDevice",
                       {method<&Self::allocate>("allocate"),
                        method<&Self::free>("free"),
                        method<&Self::allocatedBytes>("allocatedBytes"),
                        method<&Self::describe>("describe"),
                        method<&Self::close>("close"),
                        method<&Self::loadRows>("loadRows"),
                        method<&Self::copyIn>("copyIn"),
                        method<&Self::copyOut>("copyOut"),
                        method<&Self::embedding>("embedding"),
                        method<&Self::linear>("linear"),
                        method<&Self::rmsNorm>("rmsNorm"),
                        method<&Self::siluAndMul>("siluAndMul"),
                        method<&Self::rotaryEmbedding>("rotaryEmbedding"),
                        method<&Self::storeKvCache>("storeKvCache"),
                        method<&Self::attnVarlen>("attnVarlen"),
                        method<&Self::attnWithKvCache>("attnWithKvCache"),
                        method<&Self::gatherRows>("gatherRows"),
                        method<&Self::gatherTokens>("gatherTokens"),
                        method<&Self::scatterTokens>("scatterTokens"),
                        method<&Self::sample>("sample"),
                        method<&Self::readBandwidth>("readBandwidth")});
  }

  /// new CpuDevice(isa: string, threads: number); an empty name takes the best instruction set.
  explicit JsCpuDevice(const Info& info) : ObjectWrap(info) {
    guarded(info.Env(), [&] {
      device_ =
          std::make_unique<CpuDevice>(info[0].ToString().Utf8Value(), static_cast<int>(numberArg(info, 1)));
    });
  }

 private:
  template <Napi::Value (JsCpuDevice::*Method)(const Info&)>
  static Napi::ClassPropertyDescriptor<JsCpuDevice> method(const char* name) {
    return InstanceMethod<&JsCpuDevice::call<Method>>(name);
  }

  /// Every method goes through here.
  template <Napi::Value (JsCpuDevice::*Method)(const Info&)>
  Napi::Value call(const Info& info) {
    return guarded(info.Env(), [&] { return (this->*Method)(info); });
  }

  CpuDevice& device() {
    if (!device_) throw BackendError("The cpu backend was used after it was closed.");
    return *device_;
  }

  Napi::Value allocate(const Info& info) {
    const double bytes = numberArg(info, 0);
    if (!(bytes >= 0 && bytes < 0x1p63))
      throw BackendError(format("Out of memory: %.0f bytes were asked for.", bytes));
    char* const address = device().memory().allocate(static_cast<size_t>(bytes));
    return Napi::Number::New(info.Env(), static_cast<double>(reinterpret_cast<uintptr_t>(address)));
  }

  Napi::Value free(const Info& info) {
    const auto address = static_cast<uintptr_t>(numberArg(info, 0));
    if (device_) device_->memory().free(reinterpret_cast<char*>(address));
    return info.Env().Undefined();
  }

  Napi::Value allocatedBytes(const Info& info) {
    return Napi::Number::New(info.Env(), device_ ? static_cast<double>(device_->memory().totalBytes()) : 0.0);
  }

  Napi::Value describe(const Info& info) {
    const int threads = device().threads();
    return Napi::String::New(info.Env(), format("cpu: %d thread%s, %s", threads, threads == 1 ? "" : "s",
                                                device().isa().description));
  }

  Napi::Value close(const Info& info) {
    device_.reset();
    return info.Env().Undefined();
  }

  Napi::Value loadRows(const Info& info) {
    const Bytes bytes = bytesArg(info, 2);
    device().loadRows(tensorArg(info, 0), static_cast<int64_t>(numberArg(info, 1)), bytes.data, bytes.size,
                      static_cast<DType>(static_cast<int>(numberArg(info, 3))));
    return info.Env().Undefined();
  }

  /// The memory of a dense tensor that has as many bytes as `bytes`.
  char* dense(const TensorView& tensor, const Bytes& bytes) {
    device();
    if (!tensor.isContiguous() || tensor.layout != Layout::kStrided ||
        tensor.numel() * bytesOf(tensor.dtype) != static_cast<int64_t>(bytes.size)) {
      throw TensorError(format("Expected a contiguous tensor of %zu bytes but received %s.", bytes.size,
                               tensor.describe().c_str()));
    }
    return tensor.data;
  }

  Napi::Value copyIn(const Info& info) {
    const Bytes bytes = bytesArg(info, 1);
    if (bytes.size) memcpy(dense(tensorArg(info, 0), bytes), bytes.data, bytes.size);
    return info.Env().Undefined();
  }

  Napi::Value copyOut(const Info& info) {
    const Bytes bytes = bytesArg(info, 1);
    if (bytes.size) memcpy(bytes.data, dense(tensorArg(info, 0), bytes), bytes.size);
    return info.Env().Undefined();
  }

  Napi::Value embedding(const Info& info) {
    device().embedding(tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2));
    return info.Env().Undefined();
  }

  /// (out, x, weight, bias | null, accumulate)
  Napi::Value linear(const Info& info) {
    device().linear(tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2), OptionalTensor(info, 3).get(),
                    info[4].ToBoolean());
    return info.Env().Undefined();
  }

  Napi::Value rmsNorm(const Info& info) {
    device().rmsNorm(tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2), floatArg(info, 3));
    return info.Env().Undefined();
  }

  Napi::Value siluAndMul(const Info& info) {
    device().siluAndMul(tensorArg(info, 0), tensorArg(info, 1));
    return info.Env().Undefined();
  }

  Napi::Value rotaryEmbedding(const Info& info) {
    device().rotaryEmbedding(tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2), tensorArg(info, 3));
    return info.Env().Undefined();
  }

  Napi::Value storeKvCache(const Info& info) {
    device().storeKvCache(tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2), tensorArg(info, 3),
                          tensorArg(info, 4));
    return info.Env().Undefined();
  }

  /// (out, q, k, v, cuSeqlensQ, cuSeqlensK, blockTables | null, scale, causal, workspace k | null, v, scores)
  Napi::Value attnVarlen(const Info& info) {
    const TensorView cuQ = tensorArg(info, 4), cuK = tensorArg(info, 5);
    const OptionalTensor blocks(info, 6), denseK(info, 9), denseV(info, 10), scores(info, 11);
    const AttnInput input{
        &cuQ,         &cuK,         nullptr,     blocks.get(), floatArg(info, 7), info[8].ToBoolean(),
        denseK.get(), denseV.get(), scores.get()};
    device().attention(tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2), tensorArg(info, 3), input);
    return info.Env().Undefined();
  }

  /// (out, q, kCache, vCache, contextLens, blockTables, scale, workspace k | null, v, scores)
  Napi::Value attnWithKvCache(const Info& info) {
    const TensorView lengths = tensorArg(info, 4), blocks = tensorArg(info, 5);
    const OptionalTensor denseK(info, 7), denseV(info, 8), scores(info, 9);
    const AttnInput input{nullptr, nullptr,      &lengths,     &blocks,     floatArg(info, 6),
                          true,    denseK.get(), denseV.get(), scores.get()};
    device().attention(tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2), tensorArg(info, 3), input);
    return info.Env().Undefined();
  }

  Napi::Value gatherRows(const Info& info) {
    device().gatherRows(tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2));
    return info.Env().Undefined();
  }

  Napi::Value gatherTokens(const Info& info) {
    device().gatherTokens(tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2));
    return info.Env().Undefined();
  }

  Napi::Value scatterTokens(const Info& info) {
    device().scatterTokens(tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2));
    return info.Env().Undefined();
  }

  /// (out, logits, temperature, topK, topP, minP, seed, position)
  Napi::Value sample(const Info& info) {
    const SampleInput input{tensorArg(info, 2), tensorArg(info, 3), tensorArg(info, 4),
                            tensorArg(info, 5), tensorArg(info, 6), tensorArg(info, 7)};
    device().sample(tensorArg(info, 0), tensorArg(info, 1), input);
    return info.Env().Undefined();
  }

  /// (bytes, pattern: 0 … 2, seconds): bytes a second
  Napi::Value readBandwidth(const Info& info) {
    const double rate = device().readBandwidth(static_cast<size_t>(numberArg(info, 0)),
                                               static_cast<ReadPattern>(static_cast<int>(numberArg(info, 1))),
                                               numberArg(info, 2));
    return Napi::Number::New(info.Env(), rate);
  }

  static float floatArg(const Info& info, size_t index) { return static_cast<float>(numberArg(info, index)); }

  std::unique_ptr<CpuDevice> device_;
};

}  // namespace

void exportCpu(Napi::Env env, Napi::Object exports) {
  exports.Set("CpuDevice", JsCpuDevice::define(env));
  exports.Set("availableIsas", Napi::Function::New(env, [](const Info& info) {
                const auto& isas = availableIsas();
                Napi::Array names = Napi::Array::New(info.Env(), isas.size());
                for (size_t i = 0; i < isas.size(); i++) names.Set(static_cast<uint32_t>(i), isas[i].name);
                return names;
              }));
  exports.Set("availableThreads", Napi::Function::New(env, [](const Info& info) {
                return Napi::Number::New(info.Env(), availableThreads());
              }));
}

}  // namespace nanovllm
