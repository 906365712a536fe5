// Composites in terms of the other operations: what they mean, and what a backend that overrides them must agree with.
#include <iterator>

#include "core/shapes.hpp"

namespace sparlow {

namespace {

void check_admm(const AdmmStep& step) {
  for (const View& x : {step.t, step.residual, step.scratch}) same_shape("admm_step", step.w, x);
  for (const View& x : {step.velocity, step.sparse})
    if (!x.empty()) same_shape("admm_step", step.w, x);
  same_shape("admm_step", step.w, step.mask);
  require(!step.velocity.empty() || (step.relaxation == 1 && step.momentum == 0),
          "admm_step: relaxation and momentum need a velocity");
  Index rows = 0;
  for (Index count : step.row_counts) rows += count;
  require(rows == step.w.rows, "admm_step: stacked matrices have ", rows, " rows, w has ", step.w.rows);
  const ConstView views[] = {step.w, step.t, step.residual, step.scratch, step.velocity, step.sparse};
  for (std::size_t i = 0; i < std::size(views); ++i)
    for (std::size_t j = 0; j < i; ++j) disjoint("admm_step", views[i], views[j]);
}

}  // namespace

void Backend::admm_step(GramFactor& factor, AdmmStep& step) {
  require(step.w.cols == factor.size(), "admm_step: w has ", step.w.cols, " columns, the factor ", factor.size());
  check_admm(step);
  do_admm_step(factor, step);
}

void Backend::admm_reflect(AdmmStep& step) {
  check_admm(step);
  do_admm_reflect(step);
}

// The step in terms of the other operations; a backend overrides it when a profile says that passes over memory cost.
void Backend::do_admm_step(GramFactor& factor, AdmmStep& step) {
  factor.apply_smoother(step.residual, step.scratch);
  axpby(step.negated ? 1 : -1, step.scratch, 0, step.residual);  // s - a
  copy(step.t, step.scratch);
  if (!step.sparse.empty()) {
    copy(step.t, step.sparse);
    scale_by_mask(step.sparse, step.mask, 1, -1);
    axpby(1, step.residual, 1, step.sparse);
  }
  scale_by_mask(step.t, step.mask, 1, 0);
  axpby(1, step.residual, 1, step.t);  // t' = s + dual
  if (!step.velocity.empty()) {
    axpby(1 - step.relaxation, step.scratch, step.relaxation, step.t);
    axpby(step.momentum, step.velocity, 1, step.t);
    copy(step.t, step.velocity);
    axpby(-1, step.scratch, 1, step.velocity);
  }
  Index begin = 0;
  for (Index count : step.row_counts) {
    project(ConstView(step.t).row_slice(begin, count), step.pattern, step.mask.row_slice(begin, count));
    begin += count;
  }
  do_admm_reflect(step);
}

void Backend::do_admm_reflect(AdmmStep& step) {
  scale_by_mask(step.t, step.mask, 1, step.dual_scale);
  if (!step.velocity.empty()) scale_by_mask(step.velocity, step.mask, 1, step.dual_scale);
  copy(step.t, step.residual);
  scale_by_mask(step.residual, step.mask, 1, -1);
  axpby(1, step.w, -1, step.residual);
}

namespace {

void check_signed(const SignedTurn& turn) {
  for (const ConstView& x : {ConstView(turn.w), ConstView(turn.t), turn.plain, ConstView(turn.magnitude)})
    same_shape("signed", turn.target, x);
  same_shape("signed", turn.target, turn.mask);
  same_shape("signed", turn.target, turn.signs);
  const ConstView views[] = {turn.target, turn.w, turn.t, turn.plain, turn.magnitude};
  for (std::size_t i = 0; i < std::size(views); ++i)
    for (std::size_t j = 0; j < i; ++j) disjoint("signed", views[i], views[j]);
}

}  // namespace

void Backend::signed_gather(SignedTurn& turn) {
  check_signed(turn);
  if (!turn.target.empty()) do_signed_gather(turn);
}

void Backend::signed_spread(SignedTurn& turn) {
  check_signed(turn);
  if (!turn.target.empty()) do_signed_spread(turn);
}

void Backend::do_signed_gather(SignedTurn& turn) {
  copy(turn.plain, turn.magnitude);
  scale_by_mask(turn.magnitude, turn.signs, 1, -1);
  axpby(1, turn.magnitude, 1, turn.t);
  signs(turn.t, turn.signs);
  copy(turn.t, turn.magnitude);
  scale_by_mask(turn.magnitude, turn.signs, 1, -1);
  scale_by_mask(turn.magnitude, turn.mask, 0, 1);
  copy(turn.plain, turn.w);
  scale_by_mask(turn.w, turn.mask, 1, 0);
  axpby(1, turn.w, 1, turn.magnitude);
}

void Backend::do_signed_spread(SignedTurn& turn) {
  copy(turn.plain, turn.magnitude);
  scale_by_mask(turn.magnitude, turn.signs, 1, -1);
  axpby(-1, turn.magnitude, 1, turn.t);
  copy(turn.target, turn.w);
  axpby(-1, turn.magnitude, 1, turn.w);
}

namespace {

void check_cg(const CgState& state) {
  for (const ConstView& x :
       {ConstView(state.gradient), state.full, ConstView(state.residual), ConstView(state.direction), state.product})
    same_shape("cg", state.gap, x);
  same_shape("cg", state.gap, state.mask);
  require(state.norms.rows == state.gap.rows && state.norms.cols == 1, "cg: norms is not ", state.gap.rows, " x 1");
}

}  // namespace

void Backend::cg_start(CgState& state) {
  check_cg(state);
  do_cg_start(state);
}

void Backend::cg_move(CgState& state) {
  check_cg(state);
  do_cg_move(state);
}

void Backend::cg_turn(CgState& state) {
  check_cg(state);
  do_cg_turn(state);
}

void Backend::prune_columns(ColumnPruning& block) {
  same_shape("prune_columns", block.w, block.error);
  same_shape("prune_columns", block.w, block.mask);
  square("prune_columns", block.factor);
  require(block.factor.cols == block.w.cols, "prune_columns: w has ", block.w.cols, " columns, the factor ",
          block.factor.cols);
  require(block.diagonal.rows == 1 && block.diagonal.cols == block.w.cols, "prune_columns: diagonal is not 1 x ",
          block.w.cols);
  if (block.pattern.kind == Pattern::Kind::nm) block.pattern.check_shape(block.w.rows, block.w.cols, "prune_columns");
  disjoint("prune_columns", ConstView(block.w), ConstView(block.error));
  if (!block.w.empty()) do_prune_columns(block);
}

// Column by column in terms of the other operations.
void Backend::do_prune_columns(ColumnPruning& block) {
  const bool groups = block.pattern.kind == Pattern::Kind::nm;
  const Index cols = block.w.cols, width = block.pattern.m;
  for (Index j = 0; j < cols; ++j) {
    if (groups && j % width == 0) {
      const View score = block.error.col_slice(j, width);
      copy(block.w.col_slice(j, width), score);
      scale_columns(score, block.diagonal.col_slice(j, width), true);
      project(score, block.pattern, block.mask.col_slice(j, width));
    }
    const View error = block.error.col_slice(j, 1);
    copy(block.w.col_slice(j, 1), error);
    scale_by_mask(error, block.mask.col_slice(j, 1), 0, 1);
    scale_columns(error, block.diagonal.col_slice(j, 1), true);
    if (j + 1 < cols)
      gemm(-1, error, Op::none, block.factor.row_slice(j, 1).col_slice(j + 1, cols - j - 1), Op::none, 1,
           block.w.col_slice(j + 1, cols - j - 1));
  }
  scale_by_mask(block.w, block.mask, 1, 0);
}

}  // namespace sparlow
