// Projections and the composites.
#include "backend/cuda_backend.hpp"
#include "backend/gram_factor.hpp"

namespace sparlow::cuda {
namespace {

kernels::Admm arguments(const AdmmStep& step, const float* unscale) {
  const ConstView x = step.scratch;
  return {step.w.rows,
          step.w.cols,
          rows(step.w),
          rows(x),
          unscale,
          rows(step.t),
          rows(step.residual),
          rows(step.velocity),
          rows(step.sparse),
          rows(step.mask),
          static_cast<float>(step.relaxation),
          static_cast<float>(step.momentum),
          static_cast<float>(step.dual_scale),
          step.negated ? -1.0f : 1.0f};
}

kernels::Signed arguments(const SignedTurn& turn) {
  return {turn.t.rows,  turn.t.cols,          rows(turn.target), rows(turn.plain), rows(turn.w),
          rows(turn.t), rows(turn.magnitude), rows(turn.mask),   rows(turn.signs)};
}

kernels::ConjugateGradients arguments(const CgState& state) {
  return {state.gap.rows,       state.gap.cols,        rows(state.gap),     rows(state.gradient), rows(state.full),
          rows(state.residual), rows(state.direction), rows(state.product), rows(state.mask),     rows(state.norms)};
}

}  // namespace

void CudaBackend::keep_largest(ConstView score, Index kept, MaskView mask) {
  const Temporary<unsigned char> workspace(*context_, kernels::select_workspace(score.rows));
  check(kernels::select_in_matrix(score.rows, score.cols, kept, rows(score), rows(mask), workspace, context_->stream()),
        "select_in_matrix");
}

void CudaBackend::do_project(ConstView score, const Pattern& pattern, MaskView mask) {
  const Bind bind(*context_);
  const bool by_row = pattern.kind == Pattern::Kind::row;
  if (pattern.kind == Pattern::Kind::nm)
    return check(kernels::project_groups(score.rows, score.cols, pattern.n, pattern.m, rows(score), rows(mask),
                                         context_->stream()),
                 "project_groups");
  const Index kept = pattern.kept(by_row ? 1 : score.rows, score.cols), all = by_row ? score.cols : score.size();
  if (kept <= 0 || kept >= all)
    return check(
        cudaMemset2DAsync(mask.data, static_cast<std::size_t>(mask.stride), kept > 0,
                          static_cast<std::size_t>(mask.cols), static_cast<std::size_t>(mask.rows), context_->stream()),
        "cudaMemset2DAsync");
  if (by_row)
    check(kernels::select_in_rows(score.rows, score.cols, kept, rows(score), rows(mask), context_->stream()),
          "select_in_rows");
  else keep_largest(score, kept, mask);
}

void CudaBackend::do_admm_step(GramFactor& factor, AdmmStep& step) {
  const Bind bind(*context_);
  const cudaStream_t stream = context_->stream();
  auto* own = dynamic_cast<CudaGramFactor*>(&factor);  // a traced factor is called through its interface
  const bool scaled = own != nullptr && own->halves(step.w.rows);
  const Temporary<float> unscale(*context_, step.w.rows);
  if (scaled) own->smooth_scaled(step.residual, step.scratch, unscale);
  else factor.apply_smoother(step.residual, step.scratch);
  const kernels::Admm admm = arguments(step, scaled ? unscale.get() : nullptr);
  if (step.pattern.kind == Pattern::Kind::nm && step.pattern.n == 2 && step.pattern.m == 4 &&
      kernels::fits_two_of_four(admm))
    return check(kernels::advance_two_of_four(admm, stream), "advance_two_of_four");
  check(kernels::advance(admm, stream), "advance");
  Index begin = 0;
  for (Index count : step.row_counts) {
    do_project(ConstView(step.t).row_slice(begin, count), step.pattern, step.mask.row_slice(begin, count));
    begin += count;
  }
  check(kernels::reflect(admm, stream), "reflect");
}

void CudaBackend::do_admm_reflect(AdmmStep& step) {
  const Bind bind(*context_);
  check(kernels::reflect(arguments(step, nullptr), context_->stream()), "reflect");
}

void CudaBackend::do_signed_gather(SignedTurn& turn) {
  const Bind bind(*context_);
  check(kernels::signed_gather(arguments(turn), context_->stream()), "signed_gather");
}

void CudaBackend::do_signed_spread(SignedTurn& turn) {
  const Bind bind(*context_);
  check(kernels::signed_spread(arguments(turn), context_->stream()), "signed_spread");
}

void CudaBackend::do_cg_start(CgState& state) {
  const Bind bind(*context_);
  check(kernels::cg_start(arguments(state), context_->stream()), "cg_start");
}

void CudaBackend::do_cg_move(CgState& state) {
  const Bind bind(*context_);
  check(kernels::cg_move(arguments(state), context_->stream()), "cg_move");
}

void CudaBackend::do_cg_turn(CgState& state) {
  const Bind bind(*context_);
  check(kernels::cg_turn(arguments(state), context_->stream()), "cg_turn");
}

void CudaBackend::do_prune_columns(ColumnPruning& block) {
  if (block.w.cols > kernels::kWidestBlock) return Backend::do_prune_columns(block);
  const Bind bind(*context_);
  const bool groups = block.pattern.kind == Pattern::Kind::nm;
  check(kernels::prune_columns({block.w.rows, block.w.cols, rows(block.w), rows(block.factor), block.diagonal.data,
                                rows(block.mask), rows(block.error), block.pattern.n, groups ? block.pattern.m : 0},
                               context_->stream()),
        "prune_columns");
}

}  // namespace sparlow::cuda
