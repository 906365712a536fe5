// The smoother m = h (h + shift I)^-1 kept explicitly, in f32 and f16.
#pragma once

#include <vector>

#include "backend/cuda_backend.hpp"

namespace sparlow::cuda {

class CudaGramFactor final : public GramFactor {
 public:
  // `precision` belongs to the backend and is read at every use.
  CudaGramFactor(std::shared_ptr<Context> context, const Precision& precision, ConstView gram);

  ConstView matrix() const override { return gram_; }

  // Whether a product with this many rows is worth converting to f16.
  bool halves(Index rows) const;
  // y_i unscale_i = x_i m for every row i, f16 operands. unscale holds x.rows floats.
  void smooth_scaled(ConstView x, View y, float* unscale);

 protected:
  void do_set_shift(double shift) override;
  void do_apply_smoother(ConstView x, View y) override;
  void do_smoother_diagonal(View out) override;

 private:
  View smoother() const { return {static_cast<float*>(smoother_.get()), gram_.rows, gram_.rows}; }
  __half* half() const { return static_cast<__half*>(half_.get()); }
  bool can_update(double shift) const;
  void update(double ratio);
  void invert(double shift);
  void make_half();

  // Methods that alternate go through nearly the same shifts in every turn. When the first shift comes again, what is
  // made from there on is kept, step by step, and taken instead of being made while later turns walk the same way.
  struct Step {
    double shift;
    std::shared_ptr<void> smoother, half;
    int updates;
  };
  bool on_walk() const;
  bool recall(double shift);
  void remember();
  void own(bool with_values);
  bool wants_half(double shift) const;

  std::shared_ptr<Context> context_;
  const Precision& precision_;
  Products products_;
  ConstView gram_;
  std::shared_ptr<void> smoother_, half_;
  std::vector<Step> walk_;
  std::size_t place_ = 0;  // in walk_, of what smoother_ is
  double current_ = 0;     // the shift that smoother_ was made for
  int updates_ = 0;        // since the last factorisation
  double first_ = 0;       // the shift of the first factorisation
  bool ready_ = false, half_ready_ = false;
};

}  // namespace sparlow::cuda
