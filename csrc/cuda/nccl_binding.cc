// Communicator as a JavaScript class.
#include "cuda/nccl_binding.h"

#include <cstring>

#include "cuda/nccl.h"
#include "js_object.h"

namespace nanovllm::cuda {
namespace {

using Info = Napi::CallbackInfo;

class JsCommunicator : public JsObject<JsCommunicator> {
 public:
  static Napi::Function define(Napi::Env env) {
    using Self = JsCommunicator;
    return DefineClass(
        env, "NcclCommunicator",
        {method<&Self::ready>("ready"), method<&Self::allReduce>("allReduce"),
         method<&Self::allGather>("allGather"), method<&Self::broadcast>("broadcast"),
         method<&Self::barrier>("barrier"), method<&Self::abort>("abort"), method<&Self::close>("close")});
  }

  /// new NcclCommunicator(CudaDevice, unique id, rank, world size)
  explicit JsCommunicator(const Info& info) : JsObject(info) {
    guarded(info.Env(), [&] {
      const Bytes bytes = bytesArg(info, 1);
      NcclId id;
      if (bytes.size != sizeof id)
        throw BackendError(format("A NCCL id has %zu bytes, not %zu.", sizeof id, bytes.size));
      memcpy(id.bytes, bytes.data, sizeof id);
      device_ = deviceOf(info[0]);
      device_->makeCurrent();
      char* const memory = device_->allocate(sizeof(int32_t));  // freed with the device
      const Communicator::Place place{device_->ordinal(), device_->stream(),
                                      TensorView::matrix(memory, DType::kInt32, 1, 1)};
      communicator_ = std::make_unique<Communicator>(place, id, intArg(info, 2), intArg(info, 3));
    });
  }

  void enter() {
    if (device_) device_->makeCurrent();
  }

 private:
  Communicator& communicator() {
    if (!communicator_) throw BackendError("The NCCL communicator was used after it was closed.");
    return *communicator_;
  }

  Napi::Value ready(const Info& info) { return Napi::Boolean::New(info.Env(), communicator().ready()); }
  void allReduce(const Info& info) { communicator().allReduce(tensorArg(info, 0)); }
  void allGather(const Info& info) { communicator().allGather(tensorArg(info, 0), tensorArg(info, 1)); }
  void broadcast(const Info& info) { communicator().broadcast(tensorArg(info, 0), intArg(info, 1)); }
  void barrier(const Info&) { communicator().barrier(); }
  void abort(const Info&) {
    if (communicator_) communicator_->abort();
  }
  /// Whether all its work was done.
  Napi::Value close(const Info& info) {
    const bool isDone = !communicator_ || communicator_->close();
    communicator_.reset();
    device_.reset();
    return Napi::Boolean::New(info.Env(), isDone);
  }

  std::shared_ptr<CudaDevice> device_;  // outlives the communicator, which works in its stream
  std::unique_ptr<Communicator> communicator_;
};

}  // namespace

void exportNccl(Napi::Env env, Napi::Object exports) {
  exports.Set("NcclCommunicator", JsCommunicator::define(env));
  exports.Set("ncclUniqueId", Napi::Function::New(env, [](const Info& info) -> Napi::Value {
                return guarded(info.Env(), [&]() -> Napi::Value {
                  const NcclId id = makeNcclId();
                  Napi::Uint8Array result = Napi::Uint8Array::New(info.Env(), sizeof id);
                  memcpy(result.Data(), id.bytes, sizeof id);
                  return result;
                });
              }));
  exports.Set("ncclVersion", Napi::Function::New(env, [](const Info& info) -> Napi::Value {
                return guarded(info.Env(),
                               [&]() -> Napi::Value { return Napi::String::New(info.Env(), ncclVersion()); });
              }));
}

}  // namespace nanovllm::cuda
