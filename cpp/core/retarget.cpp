// What a layer on drifted inputs has to be to come closest to what it was on its own ones.
#include "sparlow/solvers.hpp"

namespace sparlow {

// The minimiser z of ||x w^T - y z^T||^2 + ||(z - w) (hd - h)^1/2||^2 with h = y^T y, hd the damped h and
// drift = (x - y)^T y solves (z - w) hd = w drift; with scaled coordinates and u^T u the inverse there,
// hd^-1 = diag(1/n) u^T u diag(1/n).
void retarget(Backend& backend, std::span<const ConstView> weights, ConstView gram, ConstView drift, Damping damping,
              double share, std::span<const View> out) {
  require(weights.size() == out.size(), weights.size(), " weights and ", out.size(), " outputs do not match");
  require(share >= 0 && share <= 1, "the share ", share, " is outside [0, 1]");
  require(drift.rows == gram.rows && drift.cols == gram.cols, "the drift is ", drift.rows, " x ", drift.cols,
          ", the Gram matrix ", gram.rows, " x ", gram.cols);
  ScaledGram scaled(backend, gram, damping);
  const ConstView u = scaled.inverse_factor(), n = scaled.scale();
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const ConstView w = weights[i];
    require(w.cols == gram.cols, "a weight has ", w.cols, " inputs, the Gram matrix ", gram.cols);
    Matrix step = backend.matrix(w.rows, w.cols), half = backend.matrix(w.rows, w.cols);
    backend.gemm(1, w, Op::none, drift, Op::none, 0, step);
    backend.scale_columns(step, n, true);
    backend.gemm(1, step, Op::none, u, Op::transpose, 0, half);
    backend.gemm(share, half, Op::none, u, Op::none, 0, step);
    backend.scale_columns(step, n, true);
    backend.copy(w, out[i]);
    backend.axpby(1, step, 1, out[i]);
  }
}

}  // namespace sparlow
