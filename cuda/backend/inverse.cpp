// x = u^T u by cuSOLVER, then u^-1 block by block and x^-1 = u^-1 u^-T by products, several times faster than potri.
#include "backend/inverse.hpp"

#include <algorithm>
#include <vector>

namespace sparlow::cuda {
namespace {

constexpr Index kBlock = 256;
constexpr float kSmallestPivot = 4 * 6e-8f;  // squared pivots below this part of their diagonal entry are rounding

// Row-major upper triangles are LAPACK's lower ones.
constexpr cublasFillMode_t kTriangle = CUBLAS_FILL_MODE_LOWER;

bool factorise(Context& context, View x) {
  const int size = static_cast<int>(x.rows);
  int length = 0;
  check(cusolverDnSpotrf_bufferSize(context.solver(), kTriangle, size, x.data, size, &length), "potrf");
  const Temporary<float> work(context, std::max(length, 1)), diagonals(context, 2 * x.rows);
  const Temporary<int> info(context, 1);
  const ConstFloats diagonal{x.data, x.stride + 1};
  check(kernels::gather(x.rows, diagonal, diagonals, context.stream()), "gather");
  check(cusolverDnSpotrf(context.solver(), kTriangle, size, x.data, size, work, length, info), "potrf");
  check(kernels::gather(x.rows, diagonal, diagonals.get() + x.rows, context.stream()), "gather");
  int pivot = 0;
  context.fetch(info.get(), &pivot, sizeof pivot);
  std::vector<float> values(static_cast<std::size_t>(2 * x.rows));
  context.fetch(diagonals.get(), values.data(), values.size() * sizeof(float));
  const auto sound = [](float before, float root) { return root * root > kSmallestPivot * before; };
  return pivot == 0 && std::equal(values.begin(), values.begin() + x.rows, values.begin() + x.rows, sound);
}

// Diagonal blocks of v become the inverses of those of u; v is the identity before.
void invert_blocks(Context& context, ConstView u, View v) {
  const float one = 1;
  const Index full = u.rows / kBlock, rest = u.rows % kBlock, step = kBlock * (u.stride + 1);
  const int size = static_cast<int>(kBlock), stride = static_cast<int>(u.stride);
  std::vector<float*> pointers;
  for (Index b = 0; b < full; ++b) pointers.push_back(const_cast<float*>(u.data) + b * step);  // only read
  for (Index b = 0; b < full; ++b) pointers.push_back(v.data + b * step);
  const Temporary<float*> blocks(context, std::max<Index>(1, 2 * full));
  check(cudaMemcpyAsync(blocks, pointers.data(), pointers.size() * sizeof(float*), cudaMemcpyHostToDevice,
                        context.stream()),
        "cudaMemcpyAsync");
  if (full > 0)
    check(cublasStrsmBatched(context.blas(), CUBLAS_SIDE_LEFT, kTriangle, CUBLAS_OP_N, CUBLAS_DIAG_NON_UNIT, size, size,
                             &one, blocks, stride, blocks.get() + full, stride, static_cast<int>(full)),
          "cublasStrsmBatched");
  if (rest > 0)
    check(cublasStrsm(context.blas(), CUBLAS_SIDE_LEFT, kTriangle, CUBLAS_OP_N, CUBLAS_DIAG_NON_UNIT,
                      static_cast<int>(rest), static_cast<int>(rest), &one, u.data + full * step, stride,
                      v.data + full * step, stride),
          "cublasStrsm");
  context.wait();  // `pointers` is read until here
}

// Neighbouring blocks joined: [u11 u12; 0 u22]^-1 = [v11 -v11 u12 v22; 0 v22].
void join_blocks(Context& context, const Products& products, ConstView u, View v) {
  const Index n = u.rows;
  for (Index size = kBlock; size < n; size *= 2)
    for (Index begin = 0; begin + size < n; begin += 2 * size) {
      const Index middle = begin + size, rest = std::min(size, n - middle);
      const Temporary<float> memory(context, size * rest);
      const View product{memory, size, rest};
      const ConstView v11 = ConstView(v).row_slice(begin, size).col_slice(begin, size),
                      v22 = ConstView(v).row_slice(middle, rest).col_slice(middle, rest);
      products.full(1, u.row_slice(begin, size).col_slice(middle, rest), Op::none, v22, Op::none, 0, product);
      products.full(-1, v11, Op::none, product, Op::none, 0, v.row_slice(begin, size).col_slice(middle, rest));
    }
}

// v = u^-1, zeros below the diagonal
void invert_triangle(Context& context, const Products& products, ConstView u, View v) {
  check(cudaMemsetAsync(v.data, 0, static_cast<std::size_t>(v.size()) * sizeof(float), context.stream()),
        "cudaMemsetAsync");
  check(kernels::add_to_diagonal(v.rows, 1, rows(v), context.stream()), "add_to_diagonal");
  invert_blocks(context, u, v);
  join_blocks(context, products, u, v);
}

}  // namespace

bool invert_positive(Context& context, const Products& products, View x) {
  if (!factorise(context, x)) return false;
  const Temporary<float> memory(context, x.size());
  const View v{memory, x.rows, x.cols};
  invert_triangle(context, products, x, v);
  products.outer_upper(v, x);
  return true;
}

// With j the reversal of all indices, j x j = t^T t gives x = r r^T for the upper triangular r = j t^T j; its inverse
// is what is asked for, and inverting commutes with the reversal.
bool invert_root(Context& context, const Products& products, ConstView x, View u) {
  const Index n = x.rows;
  const Temporary<float> reversed(context, n * n), inverse(context, n * n);
  const View t{reversed, n, n}, v{inverse, n, n};
  check(kernels::antitranspose(n, rows(x), rows(t), context.stream()), "antitranspose");
  if (!factorise(context, t)) return false;
  invert_triangle(context, products, t, v);
  check(kernels::antitranspose(n, rows(ConstView(v)), rows(u), context.stream()), "antitranspose");
  return true;
}

}  // namespace sparlow::cuda
