// The linear layer: nearly all of a model's arithmetic, and in decoding nearly all of its memory traffic.
// This file cuts the work into tasks; the arithmetic is in linear_panel.h (any weights, float32 FMA),
// linear_dot.h (bfloat16 weights by dot products of pairs) and linear_amx.h (the same on matrix units).
#include <atomic>
#include <type_traits>

#include "cpu/kernels/linear_amx.h"
#include "cpu/kernels/linear_dot.h"
#include "cpu/kernels/linear_panel.h"
#include "cpu/kernels/ops.h"

namespace nanovllm {
namespace NANO_ISA {
namespace {

/// Sums that fit the registers: 32 of 16 floats, or 16 of 8 (or 4).
constexpr int kRows = W == 16 ? 6 : W == 8 ? 6 : 3;
constexpr int kPanels = W == 16 ? 4 : 1;
/// With one row, more panels give the adders enough independent sums to work on.
constexpr int kPanelsOneRow = W == 16 ? 8 : W == 8 ? 4 : 2;

template <class T>
struct PanelLinear {
  const TensorView &out, &x, &weight;
  const LinearEpilogue& epilogue;
  PackedShape shape{weight};

  template <int R, int P>
  void block(int64_t row, int64_t panel) const {
    const int64_t n = panel * PackedShape::kPanel;
    panelBlock<T, R, P>(out.f32() + row * out.stride[0] + n, out.stride[0], x.f32() + row * x.stride[0],
                        x.stride[0], weight.as<T>() + panel * shape.panelElements(), shape.panelElements(),
                        shape.k, epilogue.from(n), shape.n - n);
  }

  /// The last rows: fewer than kRows of them.
  template <int R, int P>
  void rest(int64_t row, int64_t panel, int64_t rows) const {
    if constexpr (R > 0) {
      rows == R ? block<R, P>(row, panel) : rest<R - 1, P>(row, panel, rows);
    }
  }

  template <int P>
  void allRows(int64_t panel) const {
    int64_t row = 0;
    for (; row + kRows <= x.size[0]; row += kRows) block<kRows, P>(row, panel);
    rest<kRows - 1, P>(row, panel, x.size[0] - row);
  }

  void operator()(int64_t panel, int64_t end) const {
    if (x.size[0] == 1) {
      for (; panel + kPanelsOneRow <= end; panel += kPanelsOneRow) block<1, kPanelsOneRow>(0, panel);
    }
    for (; panel + kPanels <= end; panel += kPanels) allRows<kPanels>(panel);
    for (; panel < end; panel++) allRows<1>(panel);
  }
};

/// Each thread gets one contiguous range of panels and walks through it in chunks, so that what it prefetches
/// past the end of a chunk is what it multiplies next. A thread that is done helps the others: a range's
/// next chunk goes to whoever asks first.
template <class Body>
void forEachPanelRange(Context& ctx, const PackedShape& shape, int64_t rows, int64_t unit, const Body& body) {
  constexpr int64_t kBytesPerChunk = 128 << 10, kRowsPerUnit = 16, kMaxThreads = 256;
  const int64_t panels = shape.panels(), panelBytes = shape.panelElements() * bytesOf(shape.dtype);
  const int64_t least = kBytesPerChunk / (panelBytes * ((rows + kRowsPerUnit - 1) / kRowsPerUnit)) + 1;
  const int64_t chunk = (least + unit - 1) / unit * unit;
  const int64_t chunks = (panels + chunk - 1) / chunk;
  int64_t ranges = ctx.pool.threads() < kMaxThreads ? ctx.pool.threads() : kMaxThreads;
  if (chunks < ranges) ranges = chunks;
  struct alignas(64) Range {
    std::atomic<int64_t> next;
    int64_t end;
  } range[kMaxThreads];
  for (int64_t i = 0; i < ranges; i++) {
    range[i].next = chunks * i / ranges;
    range[i].end = chunks * (i + 1) / ranges;
  }
  ctx.pool.run(static_cast<int>(ranges), [&](int own, int) {
    for (int64_t i = 0; i < ranges; i++) {
      Range& r = range[(own + i) % ranges];
      for (int64_t at; (at = r.next.fetch_add(1, std::memory_order_relaxed)) < r.end;) {
        const int64_t end = (at + 1) * chunk;
        body(at * chunk, end < panels ? end : panels);
      }
    }
  });
}

}  // namespace

void linear(Context& ctx, const TensorView& out, const TensorView& x, const TensorView& weight,
            const LinearEpilogue& epilogue) {
  if (x.size[0] == 0) return;
  const PackedShape shape(weight);
#if defined(__AMX_BF16__)
  if (weight.dtype == DType::kBFloat16) {
    const AmxLinear amx(ctx, out, x, weight, epilogue);
    forEachPanelRange(ctx, shape, x.size[0], 2, amx);
    return;
  }
#elif defined(__AVX512BF16__)
  if (weight.dtype == DType::kBFloat16) {
    const DotLinear dot(ctx, out, x, weight, epilogue);
    forEachPanelRange(ctx, shape, x.size[0], x.size[0] == 1 ? 8 : 4, dot);
    return;
  }
#endif
  withFloatType(weight.dtype, [&](auto* type) {
    const PanelLinear<std::remove_pointer_t<decltype(type)>> panels{out, x, weight, epilogue};
    forEachPanelRange(ctx, shape, x.size[0], x.size[0] == 1 ? kPanelsOneRow : kPanels, panels);
  });
}

}  // namespace NANO_ISA
}  // namespace nanovllm
