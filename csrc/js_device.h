// What the devices' JavaScript classes have in common: the operations whose arguments are alike are passed
// on. Tensors arrive as descriptors; see js_args.h.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "js_object.h"

namespace nanovllm {

/// `Self` is the JavaScript class (CRTP), `Device` what it wraps.
template <class Self, class Device>
class JsDevice : public JsObject<Self> {
 protected:
  using Info = Napi::CallbackInfo;
  using JsObject<Self>::floatArg;
  using JsObject<Self>::intArg;

  JsDevice(const Info& info, const char* name) : JsObject<Self>(info), name_(name) {}

  Device& device() {
    if (!device_) throw BackendError(format("The %s backend was used after it was closed.", name_));
    return *device_;
  }

  Napi::Value allocate(const Info& info) {
    const double bytes = numberArg(info, 0);
    if (!(bytes >= 0 && bytes < 0x1p63))
      throw BackendError(format("Out of memory: %.0f bytes were asked for.", bytes));
    char* const address = device().allocate(static_cast<size_t>(bytes));
    return Napi::Number::New(info.Env(), static_cast<double>(reinterpret_cast<uintptr_t>(address)));
  }

  void free(const Info& info) {
    const auto address = static_cast<uintptr_t>(numberArg(info, 0));
    if (device_) device_->memory().free(reinterpret_cast<char*>(address));
  }

  Napi::Value allocatedBytes(const Info& info) {
    return Napi::Number::New(info.Env(), device_ ? static_cast<double>(device_->memory().totalBytes()) : 0.0);
  }

  Napi::Value describe(const Info& info) { return Napi::String::New(info.Env(), device().describe()); }

  /// (weight, first row, checkpoint bytes, their dtype)
  void loadRows(const Info& info) {
    const Bytes bytes = bytesArg(info, 2);
    device().loadRows(tensorArg(info, 0), static_cast<int64_t>(numberArg(info, 1)), bytes.data, bytes.size,
                      static_cast<DType>(intArg(info, 3)));
  }

  /// (out, ids, weight, first row | null)
  void embedding(const Info& info) {
    std::optional<int64_t> firstRow;
    if (!info[3].IsNull()) firstRow = static_cast<int64_t>(numberArg(info, 3));
    device().embedding(tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2), firstRow);
  }
  void rmsNorm(const Info& info) {
    device().rmsNorm(tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2), floatArg(info, 3));
  }
  void siluAndMul(const Info& info) { device().siluAndMul(tensorArg(info, 0), tensorArg(info, 1)); }
  void rotaryEmbedding(const Info& info) {
    device().rotaryEmbedding(tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2), tensorArg(info, 3));
  }
  void storeKvCache(const Info& info) {
    device().storeKvCache(tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2), tensorArg(info, 3),
                          tensorArg(info, 4));
  }
  void gatherRows(const Info& info) {
    device().gatherRows(tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2));
  }
  void gatherTokens(const Info& info) {
    device().gatherTokens(tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2));
  }
  void scatterTokens(const Info& info) {
    device().scatterTokens(tensorArg(info, 0), tensorArg(info, 1), tensorArg(info, 2));
  }
  void concatColumns(const Info& info) { device().concatColumns(tensorArg(info, 0), tensorArg(info, 1)); }
  /// (out, logits, temperature, topK, topP, minP, seed, position)
  void sample(const Info& info) {
    device().sample(tensorArg(info, 0), tensorArg(info, 1),
                    {tensorArg(info, 2), tensorArg(info, 3), tensorArg(info, 4), tensorArg(info, 5),
                     tensorArg(info, 6), tensorArg(info, 7)});
  }

  std::shared_ptr<Device> device_;

 private:
  const char* name_;
};

}  // namespace nanovllm
