// The CUDA backend: cuBLAS and cuSOLVER for products and factorisations, own kernels for the rest.
#pragma once

#include "backend/context.hpp"
#include "kernels/kernels.hpp"
#include "sparlow/backend.hpp"

namespace sparlow::cuda {

using kernels::Bytes;
using kernels::ConstBytes;
using kernels::ConstFloats;
using kernels::Floats;

inline Floats rows(const View& x) { return {x.data, x.stride}; }
inline ConstFloats rows(const ConstView& x) { return {x.data, x.stride}; }
inline Bytes rows(const MaskView& x) { return {x.data, x.stride}; }
inline ConstBytes rows(const ConstMaskView& x) { return {x.data, x.stride}; }

// Row-major products on the context's stream.
class Products {
 public:
  explicit Products(Context& context) : context_(context) {}

  // c = alpha op(a) op(b) + beta c in f32 or with TF32 operands
  void single(Precision precision, float alpha, ConstView a, Op op_a, ConstView b, Op op_b, float beta, View c) const;
  // The same to f32 accuracy on the matrix units: operands split into two halves of 11 bits each, three products.
  void split(float alpha, ConstView a, Op op_a, ConstView b, Op op_b, float beta, View c) const;
  // c = alpha a b + beta c; a (rows x inner) and b (inner x cols) f16 without gaps
  void half(float alpha, const __half* a, const __half* b, Index inner, float beta, View c) const;
  // The same for square a and b whose product is symmetric
  void half_symmetric(float alpha, const __half* a, const __half* b, float beta, View c) const;
  // Upper triangle of c = v v^T to f32 accuracy, v upper triangular with zeros below
  void outer_upper(ConstView v, View c) const;
  // To f32 accuracy by whichever of single and split is faster.
  void full(float alpha, ConstView a, Op op_a, ConstView b, Op op_b, float beta, View c) const;

 private:
  class Split;
  // c = factors[0, 1] op(a) op(b) + factors[2] c from the halves at the given offsets
  void multiply_split(const Split& a, Index a_offset, Op op_a, const Split& b, Index b_offset, Op op_b, Index inner,
                      const float* factors, View c) const;

  Context& context_;
};

class CudaBackend final : public Backend {
 public:
  CudaBackend(int device, cudaStream_t stream);

  std::string_view name() const override { return "cuda"; }
  void set_precision(Precision precision) override { precision_ = precision; }
  void wait() override;

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

 private:
  using Bind = Context::Bind;

  void orthonormalise_panel(View panel);
  void keep_largest(ConstView score, Index kept, MaskView mask);

  std::shared_ptr<Context> context_;
  Products products_;
  Precision precision_ = Precision::f16;
};

}  // namespace sparlow::cuda
