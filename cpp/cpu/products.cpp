// Matrix products and what is made of them.
#include <algorithm>
#include <vector>

#include "cpu/blas.hpp"
#include "cpu/cpu_backend.hpp"
#include "cpu/parallel.hpp"

namespace sparlow::cpu {
namespace {

constexpr Index kBlasLimit = 2147483647;
constexpr Index kGramRows = 1024;  // tokens converted to f32 at a time
constexpr Index kQuadraticBlock = 256;

int blas_int(Index n) {
  require(n <= kBlasLimit, "a dimension of ", n, " exceeds the 32-bit BLAS");
  return static_cast<int>(n);
}

// BLAS wants a stride of at least 1 even for empty rows.
int stride_of(ConstView x) { return blas_int(std::max<Index>(1, x.stride)); }

float widen(std::uint16_t bits, DType dtype) {
  if (dtype == DType::bf16) {
    const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
    float value;
    __builtin_memcpy(&value, &wide, sizeof value);
    return value;
  }
  _Float16 half;
  __builtin_memcpy(&half, &bits, sizeof half);
  return static_cast<float>(half);
}

ConstView as_float(const TypedView& x, Index begin, Index count, std::vector<float>& buffer) {
  if (x.dtype == DType::f32) return {static_cast<const float*>(x.data) + begin * x.stride, count, x.cols, x.stride};
  buffer.resize(static_cast<std::size_t>(count * x.cols));
  const auto* bits = static_cast<const std::uint16_t*>(x.data) + begin * x.stride;
  parallel_for(count, row_grain(x.cols), [&](Index first, Index last) {
    for (Index i = first; i < last; ++i)
      for (Index j = 0; j < x.cols; ++j) buffer[i * x.cols + j] = widen(bits[i * x.stride + j], x.dtype);
  });
  return {buffer.data(), count, x.cols};
}

void to_double(ConstView x, double* out) {
  parallel_for(x.rows, row_grain(x.cols), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) std::copy_n(x.row(i), x.cols, out + i * x.cols);
  });
}

}  // namespace

void CpuBackend::do_gemm(double alpha, ConstView a, Op op_a, ConstView b, Op op_b, double beta, View c) {
  const Index inner = op_a == Op::none ? a.cols : a.rows;
  SPARLOW_BLAS(cblas_sgemm)(CblasRowMajor, op_a == Op::none ? CblasNoTrans : CblasTrans,
                            op_b == Op::none ? CblasNoTrans : CblasTrans, blas_int(c.rows), blas_int(c.cols),
                            blas_int(inner), static_cast<float>(alpha), a.data, stride_of(a), b.data, stride_of(b),
                            static_cast<float>(beta), c.data, stride_of(c));
}

void CpuBackend::do_gram_update(TypedView x, View gram) {
  std::vector<float> buffer;
  for (Index begin = 0; begin < x.rows; begin += kGramRows) {
    const ConstView rows = as_float(x, begin, std::min(kGramRows, x.rows - begin), buffer);
    SPARLOW_BLAS(cblas_ssyrk)(CblasRowMajor, CblasUpper, CblasTrans, blas_int(x.cols), blas_int(rows.rows), 1.0f,
                              rows.data, stride_of(rows), 1.0f, gram.data, stride_of(gram));
  }
}

// Blocks of rows of e against blocks of columns of the Gram matrix, so that the f64 copies stay small.
double CpuBackend::do_quadratic(ConstView e, ConstView gram) {
  const Index d = gram.cols, block = kQuadraticBlock;
  std::vector<double> left(block * d), right(block * d), product(block * block);
  double sum = 0;
  for (Index row = 0; row < e.rows; row += block) {
    const Index rows = std::min(block, e.rows - row);
    to_double(e.row_slice(row, rows), left.data());
    for (Index col = 0; col < d; col += block) {
      const Index cols = std::min(block, d - col);
      to_double(gram.row_slice(col, cols), right.data());  // symmetric: rows are columns
      SPARLOW_BLAS(cblas_dgemm)(CblasRowMajor, CblasNoTrans, CblasTrans, blas_int(rows), blas_int(cols), blas_int(d),
                                1.0, left.data(), blas_int(d), right.data(), blas_int(d), 0.0, product.data(),
                                blas_int(cols));
      for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < cols; ++j) sum += product[i * cols + j] * left[i * d + col + j];
    }
  }
  return sum;
}

}  // namespace sparlow::cpu
