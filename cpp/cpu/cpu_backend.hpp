// The CPU backend: OpenBLAS for products, threaded loops for the rest.
#pragma once

#include "sparlow/backend.hpp"

namespace sparlow::cpu {

class CpuBackend final : public Backend {
 public:
  CpuBackend() { num_threads(); }  // starts the pool and tells OpenBLAS its size

  std::string_view name() const override { return "cpu"; }
  void wait() override {}

 protected:
  std::shared_ptr<void> do_allocate(std::size_t bytes) override;
  void do_upload(const float* values, View out) override;
  void do_download(ConstView x, float* values) override;
  void do_copy(ConstView x, View out) override;
  void do_copy_mask(ConstMaskView x, MaskView out) override;
  void do_gemm(double alpha, ConstView a, Op op_a, ConstView b, Op op_b, double beta, View c,
               Accuracy accuracy) override;
  void do_gram_update(TypedView x, View gram) override;
  void do_symmetrise(View gram) override;
  void do_normalise_gram(ConstView gram, ConstView inverse_scale, ConstView diagonal, View out) override;
  void do_shrink(View x, double threshold) override;
  void do_axpby(double alpha, ConstView x, double beta, View y) override;
  void do_scale_columns(View x, ConstView scale, bool inverse) override;
  void do_randn(View out, std::uint64_t seed) override;
  void do_orthonormalise(View y) override;
  void do_small_eigh(View a, View values) override;
  std::unique_ptr<GramFactor> do_factor(ConstView gram) override;
  void do_inverse_factor(ConstView gram, View u, View diagonal) override;
  bool do_all_finite(ConstView x) override;
  double do_dot(ConstView x, ConstView y) override;
  double do_quadratic(ConstView e, ConstView gram) override;
  void do_project(ConstView score, const Pattern& pattern, MaskView mask) override;
  void do_nonzeros(ConstView x, MaskView mask) override;
  void do_signs(ConstView x, MaskView mask) override;
  Index do_changed(ConstMaskView a, ConstMaskView b) override;
  void do_scale_by_mask(View x, ConstMaskView mask, double kept, double pruned) override;
  void do_admm_step(GramFactor& factor, AdmmStep& step) override;
  void do_admm_reflect(AdmmStep& step) override;
  void do_signed_gather(SignedTurn& turn) override;
  void do_signed_spread(SignedTurn& turn) override;
  void do_cg_start(CgState& state) override;
  void do_cg_move(CgState& state) override;
  void do_cg_turn(CgState& state) override;
  void do_prune_columns(ColumnPruning& block) override;
};

// Projects one row on an n:m pattern.
void project_groups_row(const float* x, const Pattern& pattern, std::uint8_t* mask, Index cols);

}  // namespace sparlow::cpu
