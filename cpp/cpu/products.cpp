#include "cpu/products.hpp"

#include <algorithm>
#include <vector>

#include "cpu/blas.hpp"
#include "cpu/cpu_backend.hpp"
#include "cpu/parallel.hpp"

namespace sparlow::cpu {
namespace {

constexpr Index kBlasLimit = 2147483647;
constexpr double kSmallProduct = 4e6;  // flops below which waking the pool costs more than it saves
constexpr Index kSmallestSlice = 48;   // rows or columns of a product for one thread
constexpr Index kGramRows = 1024;      // tokens converted to f32 at a time
constexpr Index kGramBlock = 96;       // rows of the Gram matrix for one thread
constexpr Index kQuadraticBlock = 256;
constexpr Index kLapackSize = 192;  // a single-threaded factorisation is faster up to here

int blas_int(Index n) {
  require(n <= kBlasLimit, "a dimension of ", n, " exceeds the 32-bit BLAS");
  return static_cast<int>(n);
}

// BLAS wants a stride of at least 1 even for empty rows.
int stride_of(ConstView x) { return blas_int(std::max<Index>(1, x.stride)); }

void serial_gemm(double alpha, ConstView a, Op op_a, ConstView b, Op op_b, double beta, View c) {
  const Index inner = op_a == Op::none ? a.cols : a.rows;
  SPARLOW_BLAS(cblas_sgemm)
  (CblasRowMajor, op_a == Op::none ? CblasNoTrans : CblasTrans, op_b == Op::none ? CblasNoTrans : CblasTrans,
   blas_int(c.rows), blas_int(c.cols), blas_int(inner), static_cast<float>(alpha), a.data, stride_of(a), b.data,
   stride_of(b), static_cast<float>(beta), c.data, stride_of(c));
}

// Two slices a thread, so that a thread that loses its core does not hold up the others for long.
Index slice_size(Index size) {
  const Index slices = num_threads() == 1 ? 1 : 2 * num_threads();
  return std::max(kSmallestSlice, (size + slices - 1) / slices);
}

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
  for (Index i = 0; i < x.rows; ++i) std::copy_n(x.row(i), x.cols, out + i * x.cols);
}

bool invert_with_lapack(View a) {
  const int n = blas_int(a.rows), stride = stride_of(a);
  int info = 0;
  SPARLOW_BLAS(spotrf_)("L", &n, a.data, &stride, &info, 1);
  if (info == 0) SPARLOW_BLAS(spotri_)("L", &n, a.data, &stride, &info, 1);
  // LAPACK's lower triangle is the upper one of a row-major matrix.
  for (Index i = 0; i < a.rows; ++i)
    for (Index j = 0; j < i; ++j) a.row(i)[j] = a.row(j)[i];
  return info == 0;
}

View block(View a, Index row, Index rows, Index col, Index cols) { return a.row_slice(row, rows).col_slice(col, cols); }

// c = alpha a b^T + beta c with a and b `stride` apart
void multiply_double(Index rows, Index cols, Index inner, double alpha, const double* a, const double* b, Index stride,
                     double beta, double* c) {
  SPARLOW_BLAS(cblas_dgemm)
  (CblasRowMajor, CblasNoTrans, CblasTrans, blas_int(rows), blas_int(cols), blas_int(inner), alpha, a, blas_int(stride),
   b, blas_int(stride), beta, c, blas_int(cols));
}

// tr of one block of rows of e against one block of the symmetric Gram matrix's rows: its diagonal block once, and
// twice what is right of it, for what is below it too.
double quadratic_block(ConstView e, ConstView gram, Index col, Index cols) {
  const Index width = gram.cols - col, right = width - cols;
  std::vector<double> left(e.rows * width), rows(cols * width), product(e.rows * cols);
  to_double(e.col_slice(col, width), left.data());
  to_double(gram.row_slice(col, cols).col_slice(col, width), rows.data());
  multiply_double(e.rows, cols, cols, 1, left.data(), rows.data(), width, 0, product.data());
  if (right > 0)
    multiply_double(e.rows, cols, right, 2, left.data() + cols, rows.data() + cols, width, 1, product.data());
  double sum = 0;
  for (Index i = 0; i < e.rows; ++i)
    for (Index j = 0; j < cols; ++j) sum += product[i * cols + j] * left[i * width + j];
  return sum;
}

}  // namespace

void gemm(double alpha, ConstView a, Op op_a, ConstView b, Op op_b, double beta, View c) {
  const Index inner = op_a == Op::none ? a.cols : a.rows;
  const double flops = 2.0 * static_cast<double>(c.rows) * static_cast<double>(c.cols) * static_cast<double>(inner);
  if (flops < kSmallProduct) return serial_gemm(alpha, a, op_a, b, op_b, beta, c);
  if (c.rows >= c.cols) {
    parallel_for(c.rows, slice_size(c.rows), [&](Index begin, Index end) {
      const Index count = end - begin;
      const ConstView part = op_a == Op::none ? a.row_slice(begin, count) : a.col_slice(begin, count);
      serial_gemm(alpha, part, op_a, b, op_b, beta, c.row_slice(begin, count));
    });
    return;
  }
  parallel_for(c.cols, slice_size(c.cols), [&](Index begin, Index end) {
    const Index count = end - begin;
    const ConstView part = op_b == Op::none ? b.col_slice(begin, count) : b.row_slice(begin, count);
    serial_gemm(alpha, a, op_a, part, op_b, beta, c.col_slice(begin, count));
  });
}

// By halves: with x = a11^-1, t = x a12 and y = (a22 - a21 t)^-1 the inverse is [x + t y t^T, -t y; ., y]. All the work
// is in products, which run on every thread.
bool invert_spd(View a) {
  const Index n = a.rows, half = n / 2, rest = n - half;
  if (n <= kLapackSize) return invert_with_lapack(a);
  const View a11 = block(a, 0, half, 0, half), a12 = block(a, 0, half, half, rest), a21 = block(a, half, rest, 0, half),
             a22 = block(a, half, rest, half, rest);
  if (!invert_spd(a11)) return false;
  std::vector<float> storage(static_cast<std::size_t>(half * rest));
  const View t(storage.data(), half, rest);
  gemm(1, a11, Op::none, a12, Op::none, 0, t);
  gemm(-1, a21, Op::none, t, Op::none, 1, a22);
  if (!invert_spd(a22)) return false;
  gemm(-1, t, Op::none, a22, Op::none, 0, a12);
  gemm(-1, a12, Op::none, t, Op::transpose, 1, a11);
  for (Index i = 0; i < rest; ++i)
    for (Index j = 0; j < half; ++j) a21.row(i)[j] = a12.row(j)[i];
  return true;
}

void CpuBackend::do_gemm(double alpha, ConstView a, Op op_a, ConstView b, Op op_b, double beta, View c, Accuracy) {
  cpu::gemm(alpha, a, op_a, b, op_b, beta, c);
}

void CpuBackend::do_gram_update(TypedView x, View gram) {
  std::vector<float> buffer;
  for (Index begin = 0; begin < x.rows; begin += kGramRows) {
    const ConstView rows = as_float(x, begin, std::min(kGramRows, x.rows - begin), buffer);
    parallel_for(x.cols, kGramBlock, [&](Index first, Index last) {
      const Index right = x.cols - first;
      serial_gemm(1, rows.col_slice(first, last - first), Op::transpose, rows.col_slice(first, right), Op::none, 1,
                  block(gram, first, last - first, first, right));
    });
  }
}

// Blocks small enough that their f64 copies do not matter; the sum runs over them in a fixed order.
double CpuBackend::do_quadratic(ConstView e, ConstView gram) {
  const Index row_blocks = (e.rows + kQuadraticBlock - 1) / kQuadraticBlock;
  const Index col_blocks = (gram.cols + kQuadraticBlock - 1) / kQuadraticBlock;
  return parallel_sum(row_blocks * col_blocks, 1, [&](Index begin, Index) {
    const Index row = begin / col_blocks * kQuadraticBlock, col = begin % col_blocks * kQuadraticBlock;
    return quadratic_block(e.row_slice(row, std::min(kQuadraticBlock, e.rows - row)), gram, col,
                           std::min(kQuadraticBlock, gram.cols - col));
  });
}

}  // namespace sparlow::cpu
