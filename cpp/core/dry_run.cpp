#include <algorithm>

#include "sparlow/decorators.hpp"

namespace sparlow {
namespace {

double product_flops(Index rows, Index inner, Index cols) {
  return 2.0 * static_cast<double>(rows) * static_cast<double>(inner) * static_cast<double>(cols);
}

class DryRunFactor final : public GramFactor {
 public:
  DryRunFactor(ConstView gram, std::shared_ptr<Estimate> estimate, std::shared_ptr<void> storage)
      : gram_(gram), estimate_(std::move(estimate)), storage_(std::move(storage)) {}
  ConstView matrix() const override { return gram_; }

 protected:
  void do_set_shift(double) override { estimate_->flops += product_flops(gram_.rows, gram_.rows, gram_.rows) / 2; }
  void do_apply_smoother(ConstView x, View) override { estimate_->flops += product_flops(x.rows, x.cols, x.cols); }
  void do_smoother_diagonal(View) override {}

 private:
  ConstView gram_;
  std::shared_ptr<Estimate> estimate_;
  std::shared_ptr<void> storage_;
};

}  // namespace

class DryRunBackend final : public Backend {
 public:
  explicit DryRunBackend(std::shared_ptr<Estimate> estimate) : estimate_(std::move(estimate)) {}
  std::string_view name() const override { return "dry_run"; }
  void wait() override {}

 protected:
  std::shared_ptr<void> do_allocate(std::size_t bytes) override {
    estimate_->live_bytes += bytes;
    estimate_->peak_bytes = std::max(estimate_->peak_bytes, estimate_->live_bytes);
    // An address nobody reads: views need one, and distinct blocks must not look aliased.
    void* address = reinterpret_cast<void*>(next_address_);
    next_address_ += (bytes + 4095) / 4096 * 4096 + 4096;
    return {address, [estimate = estimate_, bytes](void*) { estimate->live_bytes -= bytes; }};
  }
  void do_upload(const float*, View) override {}
  // Ones: a live, finite Gram diagonal.
  void do_download(ConstView x, float* values) override { std::fill_n(values, x.size(), 1.0f); }
  void do_copy(ConstView, View) override {}
  void do_copy_mask(ConstMaskView, MaskView) override {}
  void do_gemm(double, ConstView a, Op op, ConstView, Op, double, View c, Accuracy) override {
    estimate_->flops += product_flops(c.rows, op == Op::none ? a.cols : a.rows, c.cols);
  }
  void do_gram_update(TypedView x, View gram) override {
    estimate_->flops += product_flops(gram.rows, x.rows, gram.cols) / 2;
  }
  void do_symmetrise(View) override {}
  void do_normalise_gram(ConstView, ConstView, ConstView, View) override {}
  void do_shrink(View, double) override {}
  void do_axpby(double, ConstView, double, View) override {}
  void do_scale_columns(View, ConstView, bool) override {}
  void do_randn(View, std::uint64_t) override {}
  void do_orthonormalise(View y) override { estimate_->flops += 2 * product_flops(y.rows, y.cols, y.cols); }
  void do_small_eigh(View a, View) override { estimate_->flops += 9 * product_flops(a.rows, a.rows, a.rows) / 2; }
  std::unique_ptr<GramFactor> do_factor(ConstView gram) override {
    const auto bytes = static_cast<std::size_t>(gram.size()) * sizeof(float);
    return std::make_unique<DryRunFactor>(gram, estimate_, do_allocate(bytes));
  }
  void do_inverse_factor(ConstView gram, View, View) override {
    estimate_->flops += product_flops(gram.rows, gram.rows, gram.rows) / 3;
  }
  bool do_all_finite(ConstView) override { return true; }
  double do_dot(ConstView, ConstView) override { return 1; }
  double do_quadratic(ConstView e, ConstView gram) override {
    estimate_->flops += product_flops(e.rows, gram.rows, gram.cols);
    return 1;
  }
  void do_project(ConstView, const Pattern&, MaskView) override {}
  void do_nonzeros(ConstView, MaskView) override {}
  void do_signs(ConstView, MaskView) override {}
  // Half the support "moves" at every check, so that iterative methods run to their limit: the worst case.
  Index do_changed(ConstMaskView a, ConstMaskView) override { return a.size() / 2; }
  void do_scale_by_mask(View, ConstMaskView, double, double) override {}
  void do_cg_start(CgState&) override {}
  void do_cg_move(CgState&) override {}
  void do_cg_turn(CgState&) override {}
  void do_prune_columns(ColumnPruning& block) override {
    estimate_->flops += product_flops(block.w.rows, block.w.cols, block.w.cols) / 2;
  }

 private:
  std::shared_ptr<Estimate> estimate_;
  std::uintptr_t next_address_ = 4096;
};

DryRun make_dry_run() {
  auto estimate = std::make_shared<Estimate>();
  return {std::make_unique<DryRunBackend>(estimate), estimate};
}

}  // namespace sparlow
