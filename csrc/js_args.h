// From JavaScript values to C++ and from C++ exceptions to JavaScript errors.
#pragma once

#include <napi.h>

#include "tensor.h"

namespace nanovllm {

/// A `Tensor.desc`.
inline TensorView tensorArg(const Napi::CallbackInfo& info, size_t index) {
  napi_typedarray_type type;
  size_t length;
  void* data;
  const napi_status status =
      napi_get_typedarray_info(info.Env(), info[index], &type, &length, &data, nullptr, nullptr);
  if (status != napi_ok || type != napi_float64_array || length != TensorView::kDescriptorLength) {
    throw TensorError(format("Expected a tensor descriptor for argument %zu.", index));
  }
  return TensorView::fromDescriptor(static_cast<const double*>(data));
}

/// A tensor that may be null or absent: `get()` is null then.
class OptionalTensor {
 public:
  OptionalTensor(const Napi::CallbackInfo& info, size_t index)
      : present_(!info[index].IsNull() && !info[index].IsUndefined()) {
    if (present_) view_ = tensorArg(info, index);
  }
  const TensorView* get() const { return present_ ? &view_ : nullptr; }

 private:
  bool present_;
  TensorView view_;
};

inline double numberArg(const Napi::CallbackInfo& info, size_t index) {
  if (!info[index].IsNumber()) throw TensorError(format("Expected a number for argument %zu.", index));
  return info[index].As<Napi::Number>().DoubleValue();
}

/// The bytes under a typed array, which may lie in a SharedArrayBuffer.
struct Bytes {
  char* data;
  size_t size;
};
inline Bytes bytesArg(const Napi::CallbackInfo& info, size_t index) {
  if (!info[index].IsTypedArray())
    throw TensorError(format("Expected a typed array for argument %zu.", index));
  void* data = nullptr;
  napi_get_typedarray_info(info.Env(), info[index], nullptr, nullptr, &data, nullptr, nullptr);
  return {static_cast<char*>(data), info[index].As<Napi::TypedArray>().ByteLength()};
}

/// Runs `body`; C++ exceptions become JavaScript errors whose `code` names the class TypeScript throws.
template <class Body>
auto guarded(Napi::Env env, const Body& body) {
  const auto raise = [&](const std::exception& error, const char* code) {
    const Napi::Error js = Napi::Error::New(env, error.what());
    js.Set("code", Napi::String::New(env, code));
    return js;
  };
  try {
    return body();
  } catch (const TensorError& error) {
    throw raise(error, "TENSOR");
  } catch (const BackendError& error) {
    throw raise(error, "BACKEND");
  } catch (const std::bad_alloc& error) {
    throw raise(error, "BACKEND");
  }
}

}  // namespace nanovllm
