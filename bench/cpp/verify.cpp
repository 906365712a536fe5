#include "verify.hpp"

#include <algorithm>
#include <cmath>

#include "sparlow/error.hpp"

namespace sparlow::bench {
namespace {

constexpr Index kRows = 16;
constexpr double kRounding = 0.02;  // of 16-bit results and factors, generously

}  // namespace

std::vector<std::byte> poison(const Product& product) {
  return std::vector<std::byte>(static_cast<std::size_t>(product.tokens * product.d_out * bytes_of(product.dtype)),
                                std::byte{0xff});
}

double verify(Device& device, const Product& product, const std::vector<std::byte>& x, const Uploaded& y) {
  std::vector<std::byte> got = poison(product);
  device.download(got.data(), y.data(), static_cast<std::int64_t>(got.size()));
  for (Index i = 0; i < product.tokens * product.d_out; ++i)
    if (std::isnan(value_at(got.data(), i, product.dtype)))
      fail(ErrorCode::internal, product.name, " left entry ", i, " of its result unwritten, or NaN");
  const Index token = product.tokens - 1, rows = std::min(kRows, product.d_out);
  double wrong = 0, right = 0;
  for (Index k = 0; k < rows; ++k) {
    const Index row = (k + 1) * product.d_out / rows - 1;
    const std::vector<double> w = product.row(row);
    double sum = 0;
    for (Index j = 0; j < product.d_in; ++j)
      sum += w[static_cast<std::size_t>(j)] * value_at(x.data(), token * product.d_in + j, product.dtype);
    wrong += std::pow(sum - value_at(got.data(), token * product.d_out + row, product.dtype), 2);
    right += sum * sum;
  }
  const double relative = std::sqrt(wrong / right);
  if (!(relative < kRounding))
    fail(ErrorCode::internal, product.name, " gives a wrong result: relative error ", relative);
  return relative;
}

}  // namespace sparlow::bench
