// y = x (s + u v)ᵀ + bias on the host, from the checkpoint's layout as it is: bound by reading it once.
#include <algorithm>
#include <vector>

#include "cpu/formats/nm24_rows.hpp"
#include "cpu/parallel.hpp"
#include "sparlow/error.hpp"
#include "sparlow/linear.hpp"

namespace sparlow {
namespace {

constexpr Index kGrain = Index{1} << 16;  // weights of one piece of work

std::size_t element_size(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

const void* row_of(const void* data, Index row, Index cols, DType dtype) {
  return static_cast<const char*>(data) + static_cast<std::size_t>(row * cols) * element_size(dtype);
}

struct Forward {
  const LinearShape& shape;
  const LinearTensors& from;
  const void* bias;
  const float *x, *t;  // [tokens, d_in], [tokens, rank]
  float* y;            // [tokens, d_out]
  Index tokens;
  cpu::Nm24Row* sparse = cpu::nm24_row(shape.dtype);
  cpu::DenseRow* dense = cpu::dense_row(shape.dtype);

  void row(Index i) const {
    const void* values = row_of(from.values, i, shape.d_in / 2, shape.dtype);
    const std::uint8_t* meta = from.meta + i * ((shape.d_in + 7) / 8);
    float add = 0;
    if (bias != nullptr) cpu::widen(row_of(bias, i, 1, shape.dtype), shape.dtype, 1, &add);
    for (Index first = 0; first < tokens; first += cpu::kRowTokens) {
      const int count = static_cast<int>(std::min<Index>(cpu::kRowTokens, tokens - first));
      float s[cpu::kRowTokens], l[cpu::kRowTokens] = {};
      sparse(values, meta, shape.d_in / 4, x + first * shape.d_in, shape.d_in, count, s);
      if (shape.rank > 0)
        dense(row_of(from.u, i, shape.rank, shape.dtype), shape.rank, t + first * shape.rank, shape.rank, count, l);
      for (int n = 0; n < count; ++n) y[(first + n) * shape.d_out + i] = s[n] + l[n] + add;
    }
  }
};

// t = x vᵀ
void inner(const LinearShape& shape, const void* v, const float* x, Index tokens, float* t) {
  cpu::DenseRow* dense = cpu::dense_row(shape.dtype);
  cpu::parallel_for(shape.rank, std::max<Index>(1, kGrain / shape.d_in), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r)
      for (Index first = 0; first < tokens; first += cpu::kRowTokens) {
        const int count = static_cast<int>(std::min<Index>(cpu::kRowTokens, tokens - first));
        float sums[cpu::kRowTokens];
        dense(row_of(v, r, shape.d_in, shape.dtype), shape.d_in, x + first * shape.d_in, shape.d_in, count, sums);
        for (int n = 0; n < count; ++n) t[(first + n) * shape.rank + r] = sums[n];
      }
  });
}

}  // namespace

void nm24_forward(const LinearShape& shape, const LinearTensors& from, const void* bias, const void* x, void* y,
                  Index tokens) {
  require(shape.d_out >= 1 && shape.d_in >= 4 && shape.d_in % 4 == 0 && shape.rank >= 0 && tokens >= 0,
          "a 2:4 layer needs d_in divisible by 4, got ", shape.d_out, " x ", shape.d_in, ", rank ", shape.rank, ", ",
          tokens, " tokens");
  std::vector<float> wide_x(static_cast<std::size_t>(tokens * shape.d_in));
  std::vector<float> wide_y(static_cast<std::size_t>(tokens * shape.d_out));
  std::vector<float> t(static_cast<std::size_t>(tokens * shape.rank));
  cpu::widen(x, shape.dtype, tokens * shape.d_in, wide_x.data());
  if (shape.rank > 0) inner(shape, from.v, wide_x.data(), tokens, t.data());
  const Forward forward{shape, from, bias, wide_x.data(), t.data(), wide_y.data(), tokens};
  cpu::parallel_for(shape.d_out, std::max<Index>(1, kGrain / shape.d_in), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) forward.row(i);
  });
  cpu::narrow(wide_y.data(), shape.dtype, tokens * shape.d_out, y);
}

}  // namespace sparlow
