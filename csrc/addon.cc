// Entry point of the native addon. It keeps no global state, so it loads in any number of worker threads.
#include <napi.h>

#include "cpu/binding.h"

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  nanovllm::exportCpu(env, exports);
  return exports;
}

NODE_API_MODULE(nanovllm, init)
