// A JavaScript class over C++: every method is guarded, so that exceptions arrive as JavaScript errors.
#pragma once

#include <type_traits>

#include "js_args.h"

namespace nanovllm {

/// `Self` is the class (CRTP). Node destroys the object when it is collected or its environment (the process,
/// a worker) ends.
template <class Self>
class JsObject : public Napi::ObjectWrap<Self> {
 public:
  /// Comes before every method; a class may have its own.
  void enter() {}

 protected:
  using Info = Napi::CallbackInfo;

  explicit JsObject(const Info& info) : Napi::ObjectWrap<Self>(info) {}

  /// A method that returns a Napi::Value, or nothing.
  template <auto Method>
  static Napi::ClassPropertyDescriptor<Self> method(const char* name) {
    using Callback = Napi::Value (Self::*)(const Info&);
    return Napi::ObjectWrap<Self>::InstanceMethod(name,
                                                  static_cast<Callback>(&JsObject::template call<Method>));
  }

  static float floatArg(const Info& info, size_t index) { return static_cast<float>(numberArg(info, index)); }
  static int intArg(const Info& info, size_t index) { return static_cast<int>(numberArg(info, index)); }

 private:
  /// Every method goes through here.
  template <auto Method>
  Napi::Value call(const Info& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      Self& self = static_cast<Self&>(*this);
      self.enter();
      if constexpr (std::is_void_v<decltype((self.*Method)(info))>) {
        (self.*Method)(info);
        return info.Env().Undefined();
      } else {
        return (self.*Method)(info);
      }
    });
  }
};

}  // namespace nanovllm
