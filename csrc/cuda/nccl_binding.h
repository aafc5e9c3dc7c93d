#pragma once

#include <napi.h>

#include <memory>

#include "cuda/device.h"

namespace nanovllm::cuda {

/// Adds `NcclCommunicator`, `ncclUniqueId()` and `ncclVersion()` to the addon's exports.
void exportNccl(Napi::Env env, Napi::Object exports);

/// What a JavaScript CudaDevice wraps. @throws BackendError when it was closed.
std::shared_ptr<CudaDevice> deviceOf(const Napi::Value& device);

}  // namespace nanovllm::cuda
