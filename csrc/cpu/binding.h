#pragma once

#include <napi.h>

namespace nanovllm {

/// Adds `CpuDevice`, `availableIsas()` and `availableThreads()` to the addon's exports.
void exportCpu(Napi::Env env, Napi::Object exports);

}  // namespace nanovllm
