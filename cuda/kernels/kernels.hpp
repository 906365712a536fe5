// Device kernels: raw pointers, sizes, a stream. Knows nothing of sparlow's types.
// Every launcher is asynchronous and returns the launch status.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace sparlow::cuda::kernels {

using Size = std::int64_t;

// Row i begins at data + i * stride; data may be null where a kernel says so.
template <typename T>
struct Rows {
  T* data = nullptr;
  Size stride = 0;

  __host__ __device__ T* row(Size i) const { return data + i * stride; }
};

using Floats = Rows<float>;
using ConstFloats = Rows<const float>;
using Bytes = Rows<std::uint8_t>;
using ConstBytes = Rows<const std::uint8_t>;

// elementwise.cu ---------------------------------------------------------------------------------------------
cudaError_t axpby(Size rows, Size cols, float alpha, ConstFloats x, float beta, Floats y, cudaStream_t stream);
// Towards 0 by threshold, no further.
cudaError_t shrink(Size rows, Size cols, float threshold, Floats x, cudaStream_t stream);
// x *= factor; factor 0 writes zeros whatever x holds
cudaError_t scale(Size rows, Size cols, float factor, Floats x, cudaStream_t stream);
// x_ij *= factors_j, or /= with 0 where the factor is 0
cudaError_t scale_columns(Size rows, Size cols, Floats x, const float* factors, bool inverse, cudaStream_t stream);
cudaError_t scale_rows(Size rows, Size cols, Floats x, const float* factors, cudaStream_t stream);
cudaError_t scale_by_mask(Size rows, Size cols, Floats x, ConstBytes mask, float kept, float pruned,
                          cudaStream_t stream);
cudaError_t nonzeros(Size rows, Size cols, ConstFloats x, Bytes mask, cudaStream_t stream);
// mask = (x >= 0)
cudaError_t signs(Size rows, Size cols, ConstFloats x, Bytes mask, cudaStream_t stream);
// out_ij = gram_ij inverse_scale_i inverse_scale_j, out_jj = diagonal_j
cudaError_t normalise_gram(Size size, ConstFloats gram, const float* inverse_scale, const float* diagonal, Floats out,
                           cudaStream_t stream);
cudaError_t add_to_diagonal(Size size, float value, Floats x, cudaStream_t stream);
cudaError_t randn(Size rows, Size cols, std::uint64_t seed, Floats out, cudaStream_t stream);
// gathers a column or a diagonal
cudaError_t gather(Size rows, ConstFloats x, float* out, cudaStream_t stream);

// triangle.cu ------------------------------------------------------------------------------------------------
// The strict lower triangle becomes the mirror of the upper one.
cudaError_t symmetrise(Size size, Floats x, cudaStream_t stream);
// out_ij = x_(n-1-j)(n-1-i): mirrored at the other diagonal
cudaError_t antitranspose(Size size, ConstFloats x, Floats out, cudaStream_t stream);
// The upper triangle of x holds a symmetric p; x becomes offset I + factor p, both triangles.
cudaError_t mirror_affine(Size size, float offset, float factor, Floats x, cudaStream_t stream);

// convert.cu -------------------------------------------------------------------------------------------------
// out = half(x); out rows are `cols` apart in all three
cudaError_t to_half(Size rows, Size cols, ConstFloats x, __half* out, cudaStream_t stream);
// With y like x, all of `count` entries: y_half = half(y), tail = half(c2 x + c3 y), x = c0 x + c1 y
cudaError_t polynomial_terms(Size count, float c0, float c1, float c2, float c3, float* x, const float* y,
                             __half* y_half, __half* tail, cudaStream_t stream);
// Row i times a power of two that brings its largest entry near 2^14; unscale_i undoes it.
cudaError_t rows_to_half(Size rows, Size cols, ConstFloats x, __half* out, float* unscale, cudaStream_t stream);
// *largest = bit pattern of the largest finite |x|; the caller clears it first
cudaError_t largest_bits(Size rows, Size cols, ConstFloats x, unsigned* largest, cudaStream_t stream);
// s x = high + 2^-11 low with s a power of two made from *largest; rows of high and low are `cols` apart
cudaError_t split_half(Size rows, Size cols, ConstFloats x, const unsigned* largest, __half* high, __half* low,
                       cudaStream_t stream);
// factors = {alpha / (s_a s_b), 2^-11 alpha / (s_a s_b), beta, 1}
cudaError_t split_factors(float alpha, float beta, const unsigned* largest_a, const unsigned* largest_b, float* factors,
                          cudaStream_t stream);
// out = x, from column `once` on 2 x; rows of out are `cols` apart
cudaError_t to_double(Size rows, Size cols, Size once, ConstFloats x, double* out, cudaStream_t stream);
// out = x^T rounded, x square with rows `size` apart
cudaError_t transpose_to_float(Size size, const double* x, Floats out, cudaStream_t stream);
cudaError_t to_float(Size count, const double* x, float* out, cudaStream_t stream);

// reduce.cu --------------------------------------------------------------------------------------------------
constexpr Size kPartials = 1024;  // doubles that dot wants
// *flag |= 1 when an entry is NaN or Inf
cudaError_t any_nonfinite(Size rows, Size cols, ConstFloats x, unsigned* flag, cudaStream_t stream);
// *count += entries that differ
cudaError_t count_changed(Size rows, Size cols, ConstBytes a, ConstBytes b, unsigned long long* count,
                          cudaStream_t stream);
// *sum += <x, y> in f64, always in the same order
cudaError_t dot(Size rows, Size cols, ConstFloats x, ConstFloats y, double* partials, double* sum, cudaStream_t stream);
// the same with x in f64, rows `cols` apart
cudaError_t dot_double(Size rows, Size cols, const double* x, ConstFloats y, double* partials, double* sum,
                       cudaStream_t stream);

// project.cu, select.cu --------------------------------------------------------------------------------------
// Largest n of every m consecutive entries of a row; of equal entries the lower index wins.
cudaError_t project_groups(Size rows, Size cols, int n, int m, ConstFloats score, Bytes mask, cudaStream_t stream);
// Largest `kept` entries of every row, 0 < kept < cols. NaN ranks first.
cudaError_t select_in_rows(Size rows, Size cols, Size kept, ConstFloats score, Bytes mask, cudaStream_t stream);
// Largest `kept` entries of the matrix, 0 < kept < rows cols.
Size select_workspace(Size rows);  // bytes
cudaError_t select_in_matrix(Size rows, Size cols, Size kept, ConstFloats score, Bytes mask, void* workspace,
                             cudaStream_t stream);

// admm.cu ----------------------------------------------------------------------------------------------------
struct Admm {
  Size rows, cols;
  ConstFloats w, x;      // sign x_ij unscale_i = a - s
  const float* unscale;  // may be null: 1
  Floats t, residual;
  Floats velocity, sparse;  // may be null
  Bytes mask;
  float relaxation, momentum, dual_scale, sign;
};
bool fits_two_of_four(const Admm& step);  // aligned for the fused kernel
// Advances t, projects on 2:4, rescales the dual, writes residual = w - a: one pass.
cudaError_t advance_two_of_four(const Admm& step, cudaStream_t stream);
// The same in two passes around a projection of t.
cudaError_t advance(const Admm& step, cudaStream_t stream);
cudaError_t reflect(const Admm& step, cudaStream_t stream);
// As SignedTurn; gather leaves w, spread leaves magnitude.
struct Signed {
  Size rows, cols;
  ConstFloats target, plain;
  Floats w, t, magnitude;
  ConstBytes mask;
  Bytes signs;
};
cudaError_t signed_gather(const Signed& turn, cudaStream_t stream);
cudaError_t signed_spread(const Signed& turn, cudaStream_t stream);

// cg.cu ------------------------------------------------------------------------------------------------------
struct ConjugateGradients {
  Size rows, cols;
  Floats gap, gradient;
  ConstFloats full;
  Floats residual, direction;
  ConstFloats product;
  ConstBytes mask;
  Floats norms;  // a column
};
cudaError_t cg_start(const ConjugateGradients& state, cudaStream_t stream);
cudaError_t cg_move(const ConjugateGradients& state, cudaStream_t stream);
cudaError_t cg_turn(const ConjugateGradients& state, cudaStream_t stream);

// columns.cu -------------------------------------------------------------------------------------------------
constexpr Size kWidestBlock = 256;  // columns that prune_columns takes at a time
struct ColumnBlock {
  Size rows, cols;
  Floats w;            // becomes what is kept of it
  ConstFloats factor;  // cols x cols, upper triangular
  const float* diagonal;
  Bytes mask;
  Floats error;
  int n, m;  // m = 0: the mask is given
};
cudaError_t prune_columns(const ColumnBlock& block, cudaStream_t stream);

// orthonormal.cu ---------------------------------------------------------------------------------------------
constexpr Size kLargestPanel = 128;
Size orthonormalise_workspace(Size cols);  // bytes
// y (rows x cols, cols <= kLargestPanel and <= rows) becomes an orthonormal basis that contains its column space.
cudaError_t orthonormalise(Size rows, Size cols, Floats y, void* workspace, cudaStream_t stream);

// Whether this build holds code for the current device.
cudaError_t has_code_for_device();

}  // namespace sparlow::cuda::kernels
