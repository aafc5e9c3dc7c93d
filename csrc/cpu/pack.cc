#include "cpu/pack.h"

#include <cstring>
#include <vector>

#include "cpu/convert.h"

namespace nanovllm {
namespace {

/// `count` values from `source` to `target`, through float32 unless they are the same.
void convert(char* out, DType target, const char* in, DType source, int64_t count) {
  if (source == target) {
    memcpy(out, in, count * bytesOf(source));
    return;
  }
  for (int64_t i = 0; i < count; i++) {
    float value;
    uint16_t half;
    // memcpy and not a cast: tensors in a checkpoint file start at any byte.
    if (source == DType::kFloat32) {
      memcpy(&value, in + 4 * i, 4);
    } else {
      memcpy(&half, in + 2 * i, 2);
      value = source == DType::kBFloat16 ? fromBFloat16(half) : fromFloat16(half);
    }
    if (target == DType::kFloat32) {
      memcpy(out + 4 * i, &value, 4);
    } else {
      half = target == DType::kBFloat16 ? toBFloat16(value) : toFloat16(value);
      memcpy(out + 2 * i, &half, 2);
    }
  }
}

/// `rows` rows (16 at most, of one panel) into lanes `lane …` of the panel. A unit is what one output
/// occupies at one step of k: a float32, a float16, or a pair of bfloat16.
template <class Unit>
void scatter(char* panel, int64_t lane, const std::vector<char>& block, int64_t rows, int64_t rowBytes,
             int64_t units) {
  Unit* const out = reinterpret_cast<Unit*>(panel) + lane;
  for (int64_t i = 0; i < units; i++) {
    for (int64_t r = 0; r < rows; r++) {
      memcpy(out + i * PackedShape::kPanel + r, &block[r * rowBytes + i * sizeof(Unit)], sizeof(Unit));
    }
  }
}

/// Rows of one panel, first converted into a block whose rows are padded to pairs.
void packRows(const TensorView& weight, int64_t firstRow, int64_t rows, const char* bytes, DType source) {
  const PackedShape shape(weight);
  const int64_t pairs = (shape.k + 1) / 2, rowBytes = 2 * pairs * bytesOf(shape.dtype);
  std::vector<char> block(PackedShape::kPanel * rowBytes);
  for (int64_t r = 0; r < rows; r++) {
    convert(&block[r * rowBytes], shape.dtype, bytes + r * shape.k * bytesOf(source), source, shape.k);
  }
  char* const panel =
      weight.data + firstRow / PackedShape::kPanel * shape.panelElements() * bytesOf(shape.dtype);
  const int64_t lane = firstRow % PackedShape::kPanel;
  if (shape.dtype == DType::kBFloat16) {
    scatter<uint32_t>(panel, lane, block, rows, rowBytes, pairs);
  } else if (shape.dtype == DType::kFloat16) {
    scatter<uint16_t>(panel, lane, block, rows, rowBytes, shape.k);
  } else {
    scatter<uint32_t>(panel, lane, block, rows, rowBytes, shape.k);
  }
}

}  // namespace

void loadRows(ThreadPool& pool, const TensorView& weight, int64_t firstRow, int64_t rows, const char* bytes,
              DType source) {
  if (weight.rank == 1) {
    convert(weight.data + firstRow * bytesOf(weight.dtype), weight.dtype, bytes, source, rows);
    return;
  }
  const int64_t sourceBytes = weight.size[1] * bytesOf(source);
  if (weight.layout == Layout::kStrided) {
    for (int64_t r = 0; r < rows; r++) {
      char* const out = weight.data + (firstRow + r) * weight.stride[0] * bytesOf(weight.dtype);
      convert(out, weight.dtype, bytes + r * sourceBytes, source, weight.size[1]);
    }
    return;
  }
  // One task a panel: rows of the same panel share cache lines.
  const int64_t kPanel = PackedShape::kPanel, firstPanel = firstRow / kPanel;
  const int64_t panels = rows == 0 ? 0 : (firstRow + rows - 1) / kPanel - firstPanel + 1;
  pool.run(static_cast<int>(panels), [&](int task, int) {
    int64_t begin = (firstPanel + task) * kPanel, end = begin + kPanel;
    if (begin < firstRow) begin = firstRow;
    if (end > firstRow + rows) end = firstRow + rows;
    packRows(weight, begin, end - begin, bytes + (begin - firstRow) * sourceBytes, source);
  });
}

}  // namespace nanovllm
