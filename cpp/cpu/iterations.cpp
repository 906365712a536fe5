// Composites fused into one pass over memory around the large product.
#include <cmath>

#include "cpu/cpu_backend.hpp"
#include "cpu/multiversion.hpp"
#include "cpu/parallel.hpp"

namespace sparlow::cpu {
namespace {

// x = (a - z) m = a - s; on the mask t' = t - x, off it t' = -x.
SPARLOW_MULTIVERSION void row_advance(const float* x, const std::uint8_t* mask, float* t, Index n) {
  for (Index j = 0; j < n; ++j) t[j] = (mask[j] ? t[j] : 0.0f) - x[j];
}

SPARLOW_MULTIVERSION void row_advance_with_velocity(const float* x, float relaxation, float momentum,
                                                    const std::uint8_t* mask, float* t, float* velocity, Index n) {
  for (Index j = 0; j < n; ++j) {
    const float change = -x[j] - (mask[j] ? 0.0f : t[j]);
    velocity[j] = relaxation * change + momentum * velocity[j];
    t[j] += velocity[j];
  }
}

SPARLOW_MULTIVERSION void row_sparse(const float* x, const std::uint8_t* mask, const float* t, float* sparse, Index n) {
  for (Index j = 0; j < n; ++j) sparse[j] = (mask[j] ? t[j] : -t[j]) - x[j];
}

SPARLOW_MULTIVERSION void row_negate(float* x, Index n) {
  for (Index j = 0; j < n; ++j) x[j] = -x[j];
}

SPARLOW_MULTIVERSION void row_rescale(const std::uint8_t* mask, float scale, float* x, Index n) {
  for (Index j = 0; j < n; ++j) x[j] *= mask[j] ? 1.0f : scale;
}

// residual = w - a
SPARLOW_MULTIVERSION void row_reflect(const float* w, const float* t, const std::uint8_t* mask, float* residual,
                                      Index n) {
  for (Index j = 0; j < n; ++j) residual[j] = w[j] - (mask[j] ? t[j] : -t[j]);
}

SPARLOW_MULTIVERSION void row_gather(const float* plain, const std::uint8_t* mask, float* t, std::uint8_t* signs,
                                     float* magnitude, Index n) {
  for (Index j = 0; j < n; ++j) {
    const float sum = t[j] + (signs[j] ? plain[j] : -plain[j]);
    t[j] = sum;
    signs[j] = sum >= 0;
    magnitude[j] = mask[j] ? plain[j] : std::abs(sum);
  }
}

SPARLOW_MULTIVERSION void row_spread(const float* plain, const std::uint8_t* signs, const float* target, float* t,
                                     float* w, Index n) {
  for (Index j = 0; j < n; ++j) {
    const float c = signs[j] ? plain[j] : -plain[j];
    t[j] -= c;
    w[j] = target[j] - c;
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

SPARLOW_MULTIVERSION void row_subtract(float alpha, const float* x, float* y, Index n) {
  for (Index j = 0; j < n; ++j) y[j] -= alpha * x[j];
}

// residual = full on the mask; returns <residual, old residual>
SPARLOW_MULTIVERSION float row_next_residual(const float* full, const std::uint8_t* mask, float* residual, Index n) {
  float lanes[16] = {};
  for (Index j = 0; j < n; ++j) {
    const float next = mask[j] ? full[j] : 0.0f;
    lanes[j & 15] += next * residual[j];
    residual[j] = next;
  }
  float sum = 0;
  for (float lane : lanes) sum += lane;
  return sum;
}

SPARLOW_MULTIVERSION void row_turn(float beta, const float* residual, float* direction, Index n) {
  for (Index j = 0; j < n; ++j) direction[j] = residual[j] + beta * direction[j];
}

void advance_row(const AdmmStep& step, Index i) {
  const Index n = step.w.cols;
  if (step.negated) row_negate(step.scratch.row(i), n);
  const float* x = step.scratch.row(i);
  if (!step.sparse.empty()) row_sparse(x, step.mask.row(i), step.t.row(i), step.sparse.row(i), n);
  if (step.velocity.empty()) return row_advance(x, step.mask.row(i), step.t.row(i), n);
  row_advance_with_velocity(x, static_cast<float>(step.relaxation), static_cast<float>(step.momentum), step.mask.row(i),
                            step.t.row(i), step.velocity.row(i), n);
}

void reflect_row(const AdmmStep& step, Index i) {
  const Index n = step.w.cols;
  if (step.dual_scale != 1) {
    const float scale = static_cast<float>(step.dual_scale);
    row_rescale(step.mask.row(i), scale, step.t.row(i), n);
    if (!step.velocity.empty()) row_rescale(step.mask.row(i), scale, step.velocity.row(i), n);
  }
  row_reflect(step.w.row(i), step.t.row(i), step.mask.row(i), step.residual.row(i), n);
}

}  // namespace

void CpuBackend::do_admm_step(GramFactor& factor, AdmmStep& step) {
  factor.apply_smoother(step.residual, step.scratch);
  if (step.pattern.kind == Pattern::Kind::nm) {  // groups are projected while the row is in cache
    for_rows(step.w, [&](Index i) {
      advance_row(step, i);
      project_groups_row(step.t.row(i), step.pattern, step.mask.row(i), step.w.cols);
      reflect_row(step, i);
    });
    return;
  }
  for_rows(step.w, [&](Index i) { advance_row(step, i); });
  Index begin = 0;
  for (Index rows : step.row_counts) {
    do_project(ConstView(step.t).row_slice(begin, rows), step.pattern, step.mask.row_slice(begin, rows));
    begin += rows;
  }
  do_admm_reflect(step);
}

void CpuBackend::do_admm_reflect(AdmmStep& step) {
  for_rows(step.w, [&](Index i) { reflect_row(step, i); });
}

void CpuBackend::do_signed_gather(SignedTurn& turn) {
  for_rows(turn.t, [&](Index i) {
    row_gather(turn.plain.row(i), turn.mask.row(i), turn.t.row(i), turn.signs.row(i), turn.magnitude.row(i),
               turn.t.cols);
  });
}

void CpuBackend::do_signed_spread(SignedTurn& turn) {
  for_rows(turn.t, [&](Index i) {
    row_spread(turn.plain.row(i), turn.signs.row(i), turn.target.row(i), turn.t.row(i), turn.w.row(i), turn.t.cols);
  });
}

void CpuBackend::do_cg_start(CgState& state) {
  const Index n = state.gap.cols;
  for_rows(state.gap, [&](Index i) {
    row_mask_into(state.full.row(i), state.mask.row(i), state.residual.row(i), state.direction.row(i), n);
    *state.norms.row(i) = row_product(state.residual.row(i), state.residual.row(i), n);
  });
}

void CpuBackend::do_cg_move(CgState& state) {
  const Index n = state.gap.cols;
  for_rows(state.gap, [&](Index i) {
    const float* direction = state.direction.row(i);
    const float curvature = row_product(direction, state.product.row(i), n);
    if (!(curvature > 0)) return;  // this row has converged
    const float alpha = row_product(state.residual.row(i), direction, n) / curvature;
    row_subtract(alpha, direction, state.gap.row(i), n);
    row_subtract(alpha, state.product.row(i), state.gradient.row(i), n);
  });
}

void CpuBackend::do_cg_turn(CgState& state) {
  const Index n = state.gap.cols;
  for_rows(state.gap, [&](Index i) {
    const float old = *state.norms.row(i);
    const float mixed = row_next_residual(state.full.row(i), state.mask.row(i), state.residual.row(i), n);
    const float next = row_product(state.residual.row(i), state.residual.row(i), n);
    row_turn(old > 0 ? std::max(0.0f, (next - mixed) / old) : 0.0f, state.residual.row(i), state.direction.row(i), n);
    *state.norms.row(i) = next;
  });
}

}  // namespace sparlow::cpu
