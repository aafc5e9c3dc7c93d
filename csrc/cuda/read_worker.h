// A result on its way from the device into a JavaScript array, as a promise.
#pragma once

#include <napi.h>

#include <cstring>
#include <memory>
#include <utility>

#include "cuda/device.h"

namespace nanovllm::cuda {

/// Waits for a result on a thread of Node's pool, so that the event loop goes on meanwhile.
class ReadWorker : public Napi::AsyncWorker {
 public:
  ReadWorker(Napi::Env env, std::shared_ptr<CudaDevice> device, PendingRead read, Napi::TypedArray target)
      : AsyncWorker(env),
        promise_(Napi::Promise::Deferred::New(env)),
        device_(std::move(device)),
        read_(std::move(read)),
        target_(Napi::Persistent(target)) {}

  Napi::Promise promise() const { return promise_.Promise(); }

 private:
  void Execute() override {
    try {
      device_->makeCurrent();
      read_.landing->arrived.wait();
    } catch (const std::exception& error) {
      SetError(error.what());
    }
  }

  void OnOK() override {
    const Napi::TypedArray target = target_.Value();
    memcpy(static_cast<char*>(target.ArrayBuffer().Data()) + target.ByteOffset(),
           read_.landing->memory.data(), read_.bytes);
    device_->endRead(std::move(read_));
    promise_.Resolve(Env().Undefined());
  }

  void OnError(const Napi::Error& error) override {
    error.Set("code", Napi::String::New(Env(), "BACKEND"));
    promise_.Reject(error.Value());
  }

  Napi::Promise::Deferred promise_;
  std::shared_ptr<CudaDevice> device_;
  PendingRead read_;
  Napi::Reference<Napi::TypedArray> target_;
};

}  // namespace nanovllm::cuda
