// Composites fused into one pass over memory around the large product.
#include <cmath>

#include "cpu/cpu_backend.hpp"
#include "cpu/multiversion.hpp"
#include "cpu/parallel.hpp"

namespace sparlow::cpu {
namespace {

// right-hand side a - z, a = t on the mask and -t off it
SPARLOW_MULTIVERSION void row_right_side(const float* t, const std::uint8_t* mask, const float* z, float* out, Index n) {
  for (Index j = 0; j < n; ++j) out[j] = (mask[j] ? t[j] : -t[j]) - z[j];
}

// s = z + rho x; residual = w - s; t = s + dual
SPARLOW_MULTIVERSION void row_advance(const float* w, const float* z, const float* x, float rho,
                                      const std::uint8_t* mask, float* t, float* residual, Index n) {
  for (Index j = 0; j < n; ++j) {
    const float s = z[j] + rho * x[j];
    residual[j] = w[j] - s;
    t[j] = s + (mask[j] ? 0.0f : t[j]);
  }
}

SPARLOW_MULTIVERSION float row_product(const float* x, const float* y, Index n) {
  float lanes[16] = {};
  Index j = 0;
  for (; j + 16 <= n; j += 16)
    for (Index k = 0; k < 16; ++k) lanes[k] += x[j + k] * y[j + k];
  for (; j < n; ++j) lanes[0] += x[j] * y[j];
  float sum = 0;
  for (float lane : lanes) sum += lane;
  return sum;
}

SPARLOW_MULTIVERSION void row_mask_into(const float* x, const std::uint8_t* mask, float* a, float* b, Index n) {
  for (Index j = 0; j < n; ++j) a[j] = b[j] = mask[j] ? x[j] : 0.0f;
}

SPARLOW_MULTIVERSION void row_cg_move(float alpha, const float* direction, const float* product,
                                      const std::uint8_t* mask, float* x, float* residual, Index n) {
  for (Index j = 0; j < n; ++j) {
    x[j] += alpha * direction[j];
    residual[j] -= mask[j] ? alpha * product[j] : 0.0f;
  }
}

SPARLOW_MULTIVERSION void row_cg_turn(float beta, const float* residual, float* direction, Index n) {
  for (Index j = 0; j < n; ++j) direction[j] = residual[j] + beta * direction[j];
}

}  // namespace

void CpuBackend::do_admm_step(GramFactor& factor, AdmmStep& step) {
  const Index n = step.w.cols, grain = row_grain(n);
  const float rho = static_cast<float>(step.rho);
  parallel_for(step.w.rows, grain, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i)
      row_right_side(step.t.row(i), step.mask.row(i), step.z.row(i), step.residual.row(i), n);
  });
  factor.apply_inverse(step.residual, step.scratch);
  const bool local = step.pattern.kind == Pattern::Kind::nm;  // groups are projected while the row is in cache
  parallel_for(step.w.rows, grain, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      row_advance(step.w.row(i), step.z.row(i), step.scratch.row(i), rho, step.mask.row(i), step.t.row(i),
                  step.residual.row(i), n);
      if (local) project_groups_row(step.t.row(i), step.pattern, step.mask.row(i), n);
    }
  });
  if (local) return;
  Index begin = 0;
  for (Index rows : step.row_counts) {
    do_project(ConstView(step.t).row_slice(begin, rows), step.pattern, step.mask.row_slice(begin, rows));
    begin += rows;
  }
}

void CpuBackend::do_cg_start(CgState& state) {
  const Index n = state.x.cols;
  parallel_for(state.x.rows, row_grain(n), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      row_mask_into(state.product.row(i), state.mask.row(i), state.residual.row(i), state.direction.row(i), n);
      *state.norms.row(i) = row_product(state.residual.row(i), state.residual.row(i), n);
    }
  });
}

void CpuBackend::do_cg_update(CgState& state) {
  const Index n = state.x.cols;
  parallel_for(state.x.rows, row_grain(n), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      float* direction = state.direction.row(i);
      const float norm = *state.norms.row(i), curvature = row_product(direction, state.product.row(i), n);
      if (!(norm > 0) || !(curvature > 0)) continue;  // this row has converged
      row_cg_move(norm / curvature, direction, state.product.row(i), state.mask.row(i), state.x.row(i),
                  state.residual.row(i), n);
      const float next = row_product(state.residual.row(i), state.residual.row(i), n);
      row_cg_turn(next / norm, state.residual.row(i), direction, n);
      *state.norms.row(i) = next;
    }
  });
}

}  // namespace sparlow::cpu
