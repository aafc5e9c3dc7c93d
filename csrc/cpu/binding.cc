// CpuDevice as a JavaScript class; what it shares with the GPU's is in js_device.h.
#include "cpu/binding.h"

#include <cstring>

#include "cpu/device.h"
#include "js_device.h"

namespace nanovllm {
namespace {

using Info = Napi::CallbackInfo;

class JsCpuDevice : public JsDevice<JsCpuDevice, CpuDevice> {
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
                        method<&Self::concatColumns>("concatColumns"),
                        method<&Self::sample>("sample"),
                        method<&Self::readBandwidth>("readBandwidth")});
  }

  /// new CpuDevice(isa: string, threads: number); an empty name takes the best instruction set.
  explicit JsCpuDevice(const Info& info) : JsDevice(info, "cpu") {
    guarded(info.Env(),
            [&] { device_ = std::make_shared<CpuDevice>(info[0].ToString().Utf8Value(), intArg(info, 1)); });
  }

 private:
  void close(const Info&) { device_.reset(); }

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

  void copyIn(const Info& info) {
    const Bytes bytes = bytesArg(info, 1);
    if (bytes.size) memcpy(dense(tensorArg(info, 0), bytes), bytes.data, bytes.size);
  }

  void copyOut(const Info& info) {
    const Bytes bytes = bytesArg(info, 1);
    if (bytes.size) memcpy(bytes.data, dense(tensorArg(info, 0), bytes), bytes.size);
  }

  /// (out, x, weight, bias | null, accumulate)
  void linear(const Info& info) {
    device().linear(tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2), OptionalTensor(info, 3).get(),
                    info[4].ToBoolean());
  }

  /// (out, q, k, v, cuSeqlensQ, cuSeqlensK, blockTables | null, scale, causal, workspace k | null, v, scores)
  void attnVarlen(const Info& info) {
    const TensorView cuQ = tensorArg(info, 4), cuK = tensorArg(info, 5);
    const OptionalTensor blocks(info, 6), denseK(info, 9), denseV(info, 10), scores(info, 11);
    const AttnInput input{
        &cuQ,         &cuK,         nullptr,     blocks.get(), floatArg(info, 7), info[8].ToBoolean(),
        denseK.get(), denseV.get(), scores.get()};
    device().attention(tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2), tensorArg(info, 3), input);
  }

  /// (out, q, kCache, vCache, contextLens, blockTables, scale, workspace k | null, v, scores)
  void attnWithKvCache(const Info& info) {
    const TensorView lengths = tensorArg(info, 4), blocks = tensorArg(info, 5);
    const OptionalTensor denseK(info, 7), denseV(info, 8), scores(info, 9);
    const AttnInput input{nullptr, nullptr,      &lengths,     &blocks,     floatArg(info, 6),
                          true,    denseK.get(), denseV.get(), scores.get()};
    device().attention(tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2), tensorArg(info, 3), input);
  }

  /// (bytes, pattern: 0 … 2, seconds): bytes a second
  Napi::Value readBandwidth(const Info& info) {
    const double rate = device().readBandwidth(static_cast<size_t>(numberArg(info, 0)),
                                               static_cast<ReadPattern>(static_cast<int>(numberArg(info, 1))),
                                               numberArg(info, 2));
    return Napi::Number::New(info.Env(), rate);
  }
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
