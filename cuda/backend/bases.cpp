// Orthonormal bases and small eigenproblems.
#include <algorithm>

#include "backend/cuda_backend.hpp"

namespace sparlow::cuda {

void CudaBackend::orthonormalise_panel(View panel) {
  const Temporary<unsigned char> workspace(*context_, kernels::orthonormalise_workspace(panel.cols));
  check(kernels::orthonormalise(panel.rows, panel.cols, rows(panel), workspace, context_->stream()), "orthonormalise");
}

// Panels of columns, each made orthogonal to the earlier ones twice: once is not enough when little is left of it.
void CudaBackend::do_orthonormalise(View y) {
  const Bind bind(*context_);
  for (Index begin = 0; begin < y.cols; begin += kernels::kLargestPanel) {
    const View panel = y.col_slice(begin, std::min<Index>(kernels::kLargestPanel, y.cols - begin));
    const ConstView done = ConstView(y).col_slice(0, begin);
    orthonormalise_panel(panel);
    for (int round = 0; begin > 0 && round < 2; ++round) {
      const Temporary<float> inside(*context_, begin * panel.cols);
      const View overlap{inside, begin, panel.cols};
      products_.single(Precision::f32, 1, done, Op::transpose, panel, Op::none, 0, overlap);
      products_.single(Precision::f32, -1, done, Op::none, overlap, Op::none, 1, panel);
      orthonormalise_panel(panel);
    }
  }
}

void CudaBackend::do_small_eigh(View a, View values) {
  const Bind bind(*context_);
  const cudaStream_t stream = context_->stream();
  const Index n = a.rows;
  const int size = static_cast<int>(n);
  const Temporary<double> matrix(*context_, n * n), eigenvalues(*context_, n);
  const Temporary<int> info(*context_, 1);
  check(kernels::to_double(n, n, n, rows(ConstView(a)), matrix, stream), "to_double");
  int length = 0;
  check(cusolverDnDsyevd_bufferSize(context_->solver(), CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, size, matrix,
                                    size, eigenvalues, &length),
        "syevd");
  const Temporary<double> work(*context_, std::max(length, 1));
  check(cusolverDnDsyevd(context_->solver(), CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, size, matrix, size,
                         eigenvalues, work, length, info),
        "syevd");
  check(kernels::transpose_to_float(n, matrix, rows(a), stream),
        "transpose_to_float");  // LAPACK's columns are the vectors
  check(kernels::to_float(n, eigenvalues, values.data, stream), "to_float");
  int failed = 0;
  context_->fetch(info.get(), &failed, sizeof failed);
  if (failed != 0) fail(ErrorCode::numerical, "the eigensolver failed on a ", n, " x ", n, " matrix (", failed, ")");
}

}  // namespace sparlow::cuda
