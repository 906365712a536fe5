#include "matrices.hpp"

#include <algorithm>
#include <cmath>

namespace sparlow::bench {
namespace {

constexpr Index kTokensAtOnce = 4096;
constexpr double kDecay = -0.4;   // of the spectrum: the i-th singular value is i^kDecay
constexpr Index kChannels = 500;  // one outlier among so many
constexpr float kOutlier = 20;

Matrix row_of(Backend& backend, const std::vector<float>& values) {
  Matrix out = backend.matrix(1, static_cast<Index>(values.size()));
  backend.upload(values, out);
  return out;
}

std::vector<float> channel_scales(Backend& backend, Index size, std::uint64_t seed) {
  std::vector<float> scales = backend.fetch_values(normal(backend, 1, size, seed).view());
  for (float& scale : scales) scale = std::exp(0.5f * scale);
  for (Index i = kChannels / 2; i < size; i += kChannels) scales[static_cast<std::size_t>(i)] *= kOutlier;
  return scales;
}

}  // namespace

Matrix normal(Backend& backend, Index rows, Index cols, std::uint64_t seed) {
  Matrix out = backend.matrix(rows, cols);
  backend.randn(out, seed);
  return out;
}

std::vector<Matrix> copies_of(Backend& backend, ConstView from, int copies) {
  std::vector<Matrix> out;
  for (int i = 0; i < copies; ++i) {
    out.push_back(backend.matrix(from.rows, from.cols));
    backend.copy(from, out.back());
  }
  return out;
}

Matrix synthetic_gram(Backend& backend, Index size, Index tokens, std::uint64_t seed) {
  std::vector<float> decay(static_cast<std::size_t>(size));
  for (Index i = 0; i < size; ++i)
    decay[static_cast<std::size_t>(i)] = static_cast<float>(std::pow(static_cast<double>(i + 1), kDecay));
  const Matrix spectrum = row_of(backend, decay), channels = row_of(backend, channel_scales(backend, size, seed + 1));
  const Matrix mixing = normal(backend, size, size, seed + 2);
  Matrix gram = backend.matrix(size, size);
  for (Index begin = 0; begin < tokens; begin += kTokensAtOnce) {
    const Index rows = std::min(kTokensAtOnce, tokens - begin);
    Matrix hidden = normal(backend, rows, size, seed + 3 + static_cast<std::uint64_t>(begin));
    backend.scale_columns(hidden, spectrum, false);
    Matrix x = backend.matrix(rows, size);
    backend.gemm(1 / std::sqrt(static_cast<double>(size)), hidden, Op::none, mixing, Op::none, 0, x);
    backend.scale_columns(x, channels, false);
    backend.gram_update({x.view().data, rows, size, size, DType::f32}, gram);
  }
  backend.symmetrise(gram);
  return gram;
}

}  // namespace sparlow::bench
