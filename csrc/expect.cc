#include "expect.h"

namespace nanovllm {

void fail(const char* op, const char* name, const std::string& expected, const std::string& received) {
  throw TensorError(std::string(op) + ": Expected " + expected + " for " + name + " but received " +
                    received + ".");
}

namespace {

void expectShape(const char* op, const char* name, const TensorView& tensor, int rank) {
  if (tensor.rank != rank) fail(op, name, std::to_string(rank) + " dimensions", tensor.describe());
  if (tensor.layout == Layout::kStrided && rank > 0 && tensor.size[rank - 1] > 1 &&
      tensor.stride[rank - 1] != 1) {
    fail(op, name, "a contiguous last dimension", tensor.describe());
  }
  if (!tensor.data && tensor.numel() > 0)
    fail(op, name, "a tensor of this backend", "one without an address");
}

}  // namespace

void expect(const char* op, const char* name, const TensorView& tensor, int rank, DType dtype) {
  expectShape(op, name, tensor, rank);
  if (tensor.dtype != dtype) fail(op, name, nameOf(dtype), tensor.describe());
  if (tensor.layout != Layout::kStrided) fail(op, name, "a strided tensor", tensor.describe());
}

void expectFloat(const char* op, const char* name, const TensorView& tensor, int rank) {
  expectShape(op, name, tensor, rank);
  if (tensor.dtype == DType::kInt32) fail(op, name, "float32, bfloat16 or float16", tensor.describe());
}

void expectInts(const char* op, const char* name, const TensorView& tensor, int64_t entries) {
  expect(op, name, tensor, tensor.rank, DType::kInt32);
  expectSize(op, name, tensor.numel(), entries);
  if (!tensor.isContiguous()) fail(op, name, "a contiguous tensor", tensor.describe());
}

void expectVector(const char* op, const char* name, const TensorView& tensor, int64_t entries) {
  expect(op, name, tensor, 1, DType::kFloat32);
  expectSize(op, name, tensor.numel(), entries);
}

void expectSize(const char* op, const char* name, int64_t size, int64_t expected) {
  if (size != expected) fail(op, name, "size " + std::to_string(expected), std::to_string(size));
}

void expectConcat(const TensorView& out, const TensorView& parts) {
  const char* const op = "concatColumns";
  expect(op, "out", out, 2, out.dtype);
  expect(op, "parts", parts, 3, out.dtype);
  if (!parts.isContiguous()) fail(op, "parts", "a contiguous tensor", parts.describe());
  expectSize(op, "rows of out", out.size[0], parts.size[1]);
  const int64_t columns = parts.size[0] * parts.size[2];
  if (out.size[1] > columns)
    fail(op, "columns of out", "at most " + std::to_string(columns), std::to_string(out.size[1]));
}

void expectSample(const TensorView& out, const TensorView& logits, const SampleInput& input) {
  const char* const op = "sample";
  expect(op, "logits", logits, 2, DType::kFloat32);
  const int64_t rows = logits.size[0];
  if (rows > 0 && logits.size[1] < 1) throw TensorError("sample: Expected at least one logit a row.");
  expectInts(op, "out", out, rows);
  expectInts(op, "topK", input.topK, rows);
  expectInts(op, "seed", input.seed, 2 * rows);
  expectInts(op, "position", input.position, rows);
  expectVector(op, "temperature", input.temperature, rows);
  expectVector(op, "topP", input.topP, rows);
  expectVector(op, "minP", input.minP, rows);
}

}  // namespace nanovllm
