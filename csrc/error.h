// The two kinds of error native code raises. The binding turns them into JavaScript errors whose
// `code` tells TypeScript which class to throw.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <stdexcept>
#include <string>

namespace nanovllm {

/// A tensor that does not fit the operation, or an index inside one that points outside memory.
struct TensorError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The machine cannot do it: memory is exhausted, an instruction set is missing.
struct BackendError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// printf into a std::string.
__attribute__((format(printf, 1, 2))) inline std::string format(const char* pattern, ...) {
  char text[512];
  va_list args;
  va_start(args, pattern);
  vsnprintf(text, sizeof text, pattern, args);
  va_end(args);
  return text;
}

}  // namespace nanovllm
