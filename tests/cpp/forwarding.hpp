// A backend that passes every primitive operation on to another one through its public interface. It overrides no
// composite, so admm_step runs the default body, and it counts the memory that is alive.
#pragma once

#include "sparlow/backend.hpp"

namespace sparlow::test {

class Forwarding final : public Backend {
 public:
  explicit Forwarding(Backend& inner) : inner_(inner) {}

  std::string_view name() const override { return "forwarding"; }
  void wait() override { inner_.wait(); }
  std::size_t peak_bytes() const { return peak_; }
  std::size_t live_bytes() const { return *live_; }
  std::size_t allocations() const { return allocations_; }

 protected:
  std::shared_ptr<void> do_allocate(std::size_t bytes) override;
  void do_upload(const float* values, View out) override;
  void do_download(ConstView x, float* values) override;
  void do_copy(ConstView x, View out) override { inner_.copy(x, out); }
  void do_copy_mask(ConstMaskView x, MaskView out) override { inner_.copy_mask(x, out); }
  void do_gemm(double alpha, ConstView a, Op op_a, ConstView b, Op op_b, double beta, View c,
               Accuracy accuracy) override {
    inner_.gemm(alpha, a, op_a, b, op_b, beta, c, accuracy);
  }
  void do_gram_update(TypedView x, View gram) override { inner_.gram_update(x, gram); }
  void do_symmetrise(View gram) override { inner_.symmetrise(gram); }
  void do_normalise_gram(ConstView gram, ConstView inverse_scale, ConstView diagonal, View out) override {
    inner_.normalise_gram(gram, inverse_scale, diagonal, out);
  }
  void do_shrink(View x, double threshold) override { inner_.shrink(x, threshold); }
  void do_axpby(double alpha, ConstView x, double beta, View y) override { inner_.axpby(alpha, x, beta, y); }
  void do_scale_columns(View x, ConstView scale, bool inverse) override { inner_.scale_columns(x, scale, inverse); }
  void do_randn(View out, std::uint64_t seed) override { inner_.randn(out, seed); }
  void do_orthonormalise(View y) override { inner_.orthonormalise(y); }
  void do_small_eigh(View a, View values) override { inner_.small_eigh(a, values); }
  std::unique_ptr<GramFactor> do_factor(ConstView gram) override { return inner_.factor(gram); }
  void do_inverse_factor(ConstView gram, View u, View diagonal) override { inner_.inverse_factor(gram, u, diagonal); }
  bool do_all_finite(ConstView x) override { return inner_.fetch_all_finite(x); }
  double do_dot(ConstView x, ConstView y) override { return inner_.fetch_dot(x, y); }
  double do_quadratic(ConstView e, ConstView gram) override { return inner_.fetch_quadratic(e, gram); }
  void do_project(ConstView score, const Pattern& pattern, MaskView mask) override {
    inner_.project(score, pattern, mask);
  }
  void do_nonzeros(ConstView x, MaskView mask) override { inner_.nonzeros(x, mask); }
  void do_signs(ConstView x, MaskView mask) override { inner_.signs(x, mask); }
  Index do_changed(ConstMaskView a, ConstMaskView b) override { return inner_.fetch_changed(a, b); }
  void do_scale_by_mask(View x, ConstMaskView mask, double kept, double pruned) override {
    inner_.scale_by_mask(x, mask, kept, pruned);
  }
  void do_cg_start(CgState& state) override { inner_.cg_start(state); }
  void do_cg_move(CgState& state) override { inner_.cg_move(state); }
  void do_cg_turn(CgState& state) override { inner_.cg_turn(state); }

 private:
  Backend& inner_;
  std::shared_ptr<std::size_t> live_ = std::make_shared<std::size_t>(0);
  std::size_t peak_ = 0, allocations_ = 0;
};

}  // namespace sparlow::test
