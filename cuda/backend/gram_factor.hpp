// The smoother m = h (h + shift I)^-1 kept explicitly, in f32 and f16.
#pragma once

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
  bool restore(double shift);
  void keep_if_repeated(double shift);
  void copy_smoother(const void* from, void* to) const;

  std::shared_ptr<Context> context_;
  const Precision& precision_;
  Products products_;
  ConstView gram_;
  std::shared_ptr<void> smoother_, half_, kept_;
  double current_ = 0;   // the shift that smoother_ was made for
  int updates_ = 0;      // since the last factorisation
  double inverted_ = 0;  // the shift of the last factorisation, whose smoother kept_ holds if it came twice
  bool ready_ = false, half_ready_ = false;
};

}  // namespace sparlow::cuda
