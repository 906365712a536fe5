#include "support.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

namespace sparlow::test {
namespace {

constexpr double kGuard = -777;

bool answers(const std::string& device) {
  try {
    make_backend(device);
    return true;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::unavailable) throw;
    return false;
  }
}

std::vector<float> narrowed(const Dense& x) { return {x.values.begin(), x.values.end()}; }

std::uint16_t half_bits(double value, DType dtype) {
  if (dtype == DType::f16) {
    const auto half = static_cast<_Float16>(value);
    std::uint16_t bits;
    std::memcpy(&bits, &half, sizeof bits);
    return bits;
  }
  const auto single = static_cast<float>(value);
  std::uint32_t bits;
  std::memcpy(&bits, &single, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);  // to nearest, ties to even
}

}  // namespace

const std::vector<BackendRow>& backends() {
  static const std::vector<BackendRow> rows = [] {
    std::vector<BackendRow> found;
    for (const BackendRow& row : {BackendRow{"cpu", 2e-6}, BackendRow{"cuda", 1e-5}})
      if (answers(row.device)) found.push_back(row);
    return found;
  }();
  return rows;
}

Dense from(Index rows, Index cols, const std::vector<double>& values) {
  Dense x(rows, cols);
  x.values = values;
  return x;
}

Dense normal(Index rows, Index cols, unsigned seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> distribution;
  Dense x(rows, cols);
  for (double& value : x.values) value = static_cast<float>(distribution(engine));
  return x;
}

Dense gram_of(Index size, Index tokens, unsigned seed) {
  const Dense mixing = normal(size, size, seed + 1);
  Dense x = added(1, normal(tokens, size, seed), 0.5, product(normal(tokens, size, seed + 2), mixing));
  for (Index i = 0; i < tokens; ++i)
    for (Index j = 0; j < size; j += 7) x(i, j) *= 4;  // outlier channels
  Dense gram = product(transposed(x), x);
  for (double& value : gram.values) value = static_cast<float>(value);
  return gram;
}

Dense identity(Index size) {
  Dense x(size, size);
  for (Index i = 0; i < size; ++i) x(i, i) = 1;
  return x;
}

Dense transposed(const Dense& x) {
  Dense out(x.cols, x.rows);
  for (Index i = 0; i < x.rows; ++i)
    for (Index j = 0; j < x.cols; ++j) out(j, i) = x(i, j);
  return out;
}

Dense product(const Dense& a, const Dense& b) {
  REQUIRE(a.cols == b.rows);
  Dense out(a.rows, b.cols);
  for (Index i = 0; i < a.rows; ++i)
    for (Index k = 0; k < a.cols; ++k)
      for (Index j = 0; j < b.cols; ++j) out(i, j) += a(i, k) * b(k, j);
  return out;
}

Dense added(double alpha, const Dense& a, double beta, const Dense& b) {
  REQUIRE(a.values.size() == b.values.size());
  Dense out(a.rows, a.cols);
  for (std::size_t i = 0; i < out.values.size(); ++i) out.values[i] = alpha * a.values[i] + beta * b.values[i];
  return out;
}

Dense rows_of(const Dense& x, Index begin, Index count) {
  Dense out(count, x.cols);
  std::copy_n(x.values.begin() + begin * x.cols, count * x.cols, out.values.begin());
  return out;
}

double quadratic(const Dense& e, const Dense& gram) {
  const Dense right = product(e, gram);
  double sum = 0;
  for (std::size_t i = 0; i < e.values.size(); ++i) sum += e.values[i] * right.values[i];
  return sum;
}

double largest(const Dense& x) {
  double most = 0;
  for (double value : x.values) most = std::max(most, std::fabs(value));
  return most;
}

double difference(const Dense& a, const Dense& b) {
  if (a.rows != b.rows || a.cols != b.cols) return std::numeric_limits<double>::infinity();
  double most = 0;
  for (std::size_t i = 0; i < a.values.size(); ++i) {
    const double gap = std::fabs(a.values[i] - b.values[i]);
    if (!(gap <= most)) most = gap;  // a NaN sticks
  }
  return most;
}

bool same_bits(const Dense& a, const Dense& b) {
  if (a.rows != b.rows || a.cols != b.cols) return false;
  for (std::size_t i = 0; i < a.values.size(); ++i) {
    const double x = a.values[i], y = b.values[i];
    const bool equal = std::isnan(x) ? std::isnan(y) : x == y && std::signbit(x) == std::signbit(y);
    if (!equal) return false;
  }
  return true;
}

Placed place(Backend& backend, const Dense& values, Index pad) {
  Placed placed{backend.matrix(values.rows, values.cols + 2 * pad), {}, pad};
  backend.upload(narrowed(Dense(values.rows, values.cols + 2 * pad, kGuard)), placed.parent);
  placed.view = placed.parent.view().col_slice(pad, values.cols);
  backend.upload(narrowed(values), placed.view);
  return placed;
}

bool guards_intact(Backend& backend, const Placed& placed) {
  const Dense all = fetch(backend, placed.parent.view());
  for (Index i = 0; i < all.rows; ++i)
    for (Index j = 0; j < all.cols; ++j)
      if ((j < placed.pad || j >= all.cols - placed.pad) && all(i, j) != kGuard) return false;
  return true;
}

Dense fetch(Backend& backend, ConstView x) {
  const std::vector<float> values = backend.fetch_values(x);
  Dense out(x.rows, x.cols);
  out.values.assign(values.begin(), values.end());
  return out;
}

Mask mask_of(Backend& backend, const Dense& zero_or_one) {
  Mask mask = backend.mask(zero_or_one.rows, zero_or_one.cols);
  const Placed values = place(backend, zero_or_one);
  backend.nonzeros(values, mask);
  return mask;
}

Dense fetch_mask(Backend& backend, ConstMaskView mask) {
  const Placed ones = place(backend, Dense(mask.rows, mask.cols, 1));
  backend.scale_by_mask(ones, mask, 1, 0);
  return fetch(backend, ones);
}

Half place_half(Backend& backend, const Dense& values, DType dtype) {
  std::vector<float> words((values.values.size() + 1) / 2);
  std::vector<std::uint16_t> bits(2 * words.size());
  for (std::size_t i = 0; i < values.values.size(); ++i) bits[i] = half_bits(values.values[i], dtype);
  std::memcpy(words.data(), bits.data(), words.size() * sizeof(float));
  Half half{backend.matrix(1, static_cast<Index>(words.size())), {}};
  backend.upload(words, half.storage);
  half.view = {half.storage.view().data, values.rows, values.cols, values.cols, dtype};
  return half;
}

double rounded(double value, DType dtype) {
  const std::uint16_t bits = half_bits(value, dtype);
  if (dtype == DType::f16) {
    _Float16 half;
    std::memcpy(&half, &bits, sizeof half);
    return static_cast<double>(half);
  }
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float single;
  std::memcpy(&single, &wide, sizeof single);
  return single;
}

}  // namespace sparlow::test
