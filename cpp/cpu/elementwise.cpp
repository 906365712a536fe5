// Operations that touch each entry once.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numbers>

#include "cpu/cpu_backend.hpp"
#include "cpu/multiversion.hpp"
#include "cpu/parallel.hpp"

namespace sparlow::cpu {
namespace {

constexpr std::size_t kAlignment = 64;

template <typename Row>
void for_rows(Index rows, Index cols, Row&& row) {
  parallel_for(rows, row_grain(cols), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) row(i);
  });
}

SPARLOW_MULTIVERSION void row_axpby(float alpha, const float* x, float beta, float* y, Index n) {
  for (Index j = 0; j < n; ++j) y[j] = alpha * x[j] + beta * y[j];
}

SPARLOW_MULTIVERSION void row_copy_scaled(float alpha, const float* x, float* y, Index n) {
  for (Index j = 0; j < n; ++j) y[j] = alpha * x[j];
}

SPARLOW_MULTIVERSION void row_add_scaled(float alpha, const float* x, float* y, Index n) {
  for (Index j = 0; j < n; ++j) y[j] += alpha * x[j];
}

SPARLOW_MULTIVERSION void row_shrink(float* x, float threshold, Index n) {
  for (Index j = 0; j < n; ++j) {
    const float rest = std::abs(x[j]) - threshold;
    x[j] = rest <= 0 ? 0.0f : std::copysign(rest, x[j]);
  }
}

SPARLOW_MULTIVERSION void row_scale_by_mask(float* x, const std::uint8_t* mask, float kept, float pruned, Index n) {
  for (Index j = 0; j < n; ++j) {
    const float factor = mask[j] ? kept : pruned;
    x[j] = factor == 0 ? 0.0f : factor * x[j];  // 0 * x would leave -0 and keep NaN
  }
}

SPARLOW_MULTIVERSION double row_dot(const float* x, const float* y, Index n) {
  double lanes[8] = {};
  Index j = 0;
  for (; j + 8 <= n; j += 8)
    for (Index k = 0; k < 8; ++k) lanes[k] += static_cast<double>(x[j + k]) * y[j + k];
  for (; j < n; ++j) lanes[0] += static_cast<double>(x[j]) * y[j];
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

SPARLOW_MULTIVERSION bool row_finite(const float* x, Index n) {
  std::uint32_t bad = 0;
  for (Index j = 0; j < n; ++j) {
    std::uint32_t bits;
    std::memcpy(&bits, x + j, sizeof bits);
    bad |= (bits & 0x7f800000u) == 0x7f800000u;
  }
  return bad == 0;
}

SPARLOW_MULTIVERSION void row_signs(const float* x, std::uint8_t* mask, Index n) {
  for (Index j = 0; j < n; ++j) mask[j] = x[j] >= 0;
}

SPARLOW_MULTIVERSION Index row_changed(const std::uint8_t* a, const std::uint8_t* b, Index n) {
  Index count = 0;
  for (Index j = 0; j < n; ++j) count += a[j] != b[j];
  return count;
}

// splitmix64: a counter-based stream, so that a value depends on seed and position alone.
std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

double uniform(std::uint64_t bits) { return (static_cast<double>(bits >> 11) + 0.5) * 0x1p-53; }

}  // namespace

std::shared_ptr<void> CpuBackend::do_allocate(std::size_t bytes) {
  const std::size_t rounded = std::max(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  void* memory = std::aligned_alloc(kAlignment, rounded);
  if (memory == nullptr) fail(ErrorCode::out_of_memory, "the CPU backend could not allocate ", bytes, " bytes");
  std::memset(memory, 0, rounded);
  return {memory, std::free};
}

void CpuBackend::do_upload(const float* values, View out) { do_copy({values, out.rows, out.cols}, out); }

void CpuBackend::do_download(ConstView x, float* values) {
  if (x.cols == 1) {  // a column or a diagonal
    for (Index i = 0; i < x.rows; ++i) values[i] = *x.row(i);
    return;
  }
  do_copy(x, {values, x.rows, x.cols});
}

void CpuBackend::do_copy(ConstView x, View out) {
  for_rows(x.rows, x.cols, [&](Index i) { std::memmove(out.row(i), x.row(i), x.cols * sizeof(float)); });
}

void CpuBackend::do_copy_mask(ConstMaskView x, MaskView out) {
  for_rows(x.rows, x.cols, [&](Index i) { std::memmove(out.row(i), x.row(i), x.cols); });
}

void CpuBackend::do_symmetrise(View gram) {
  for_rows(gram.rows, gram.cols, [&](Index i) {
    for (Index j = 0; j < i; ++j) gram.row(i)[j] = gram.row(j)[i];
  });
}

void CpuBackend::do_normalise_gram(ConstView gram, ConstView inverse_scale, ConstView diagonal, View out) {
  for_rows(gram.rows, gram.cols, [&](Index i) {
    const double left = inverse_scale.data[i];
    for (Index j = 0; j < gram.cols; ++j)
      out.row(i)[j] = static_cast<float>(left * inverse_scale.data[j] * gram.row(i)[j]);
    out.row(i)[i] = diagonal.data[i];
  });
}

void CpuBackend::do_axpby(double alpha, ConstView x, double beta, View y) {
  for_rows(x.rows, x.cols, [&](Index i) {
    if (beta == 0) row_copy_scaled(static_cast<float>(alpha), x.row(i), y.row(i), x.cols);  // y may hold NaN
    else if (beta == 1) row_add_scaled(static_cast<float>(alpha), x.row(i), y.row(i), x.cols);
    else row_axpby(static_cast<float>(alpha), x.row(i), static_cast<float>(beta), y.row(i), x.cols);
  });
}

void CpuBackend::do_shrink(View x, double threshold) {
  for_rows(x.rows, x.cols, [&](Index i) { row_shrink(x.row(i), static_cast<float>(threshold), x.cols); });
}

void CpuBackend::do_scale_columns(View x, ConstView scale, bool inverse) {
  for_rows(x.rows, x.cols, [&](Index i) {
    float* row = x.row(i);
    for (Index j = 0; j < x.cols; ++j) {
      const float s = scale.data[j];
      row[j] = inverse ? (s == 0 ? 0.0f : row[j] / s) : row[j] * s;
    }
  });
}

void CpuBackend::do_randn(View out, std::uint64_t seed) {
  const std::uint64_t stream = mix(seed);
  for_rows(out.rows, out.cols, [&](Index i) {
    for (Index j = 0; j < out.cols; ++j) {
      const std::uint64_t counter = 2 * static_cast<std::uint64_t>(i * out.cols + j);
      const double radius = std::sqrt(-2 * std::log(uniform(mix(stream ^ mix(counter)))));
      const double angle = 2 * std::numbers::pi * uniform(mix(stream ^ mix(counter + 1)));
      out.row(i)[j] = static_cast<float>(radius * std::cos(angle));
    }
  });
}

bool CpuBackend::do_all_finite(ConstView x) {
  const auto bad = [&](Index begin, Index end) {
    double count = 0;
    for (Index i = begin; i < end; ++i) count += !row_finite(x.row(i), x.cols);
    return count;
  };
  return parallel_sum(x.rows, row_grain(x.cols), bad) == 0;
}

double CpuBackend::do_dot(ConstView x, ConstView y) {
  return parallel_sum(x.rows, row_grain(x.cols), [&](Index begin, Index end) {
    double sum = 0;
    for (Index i = begin; i < end; ++i) sum += row_dot(x.row(i), y.row(i), x.cols);
    return sum;
  });
}

void CpuBackend::do_nonzeros(ConstView x, MaskView mask) {
  for_rows(x.rows, x.cols, [&](Index i) {
    for (Index j = 0; j < x.cols; ++j) mask.row(i)[j] = x.row(i)[j] != 0;
  });
}

void CpuBackend::do_signs(ConstView x, MaskView mask) {
  for_rows(x.rows, x.cols, [&](Index i) { row_signs(x.row(i), mask.row(i), x.cols); });
}

Index CpuBackend::do_changed(ConstMaskView a, ConstMaskView b) {
  return static_cast<Index>(parallel_sum(a.rows, row_grain(a.cols), [&](Index begin, Index end) {
    double count = 0;
    for (Index i = begin; i < end; ++i) count += static_cast<double>(row_changed(a.row(i), b.row(i), a.cols));
    return count;
  }));
}

void CpuBackend::do_scale_by_mask(View x, ConstMaskView mask, double kept, double pruned) {
  for_rows(x.rows, x.cols, [&](Index i) {
    row_scale_by_mask(x.row(i), mask.row(i), static_cast<float>(kept), static_cast<float>(pruned), x.cols);
  });
}

}  // namespace sparlow::cpu

namespace sparlow {

std::unique_ptr<Backend> make_cpu_backend() { return std::make_unique<cpu::CpuBackend>(); }

}  // namespace sparlow
