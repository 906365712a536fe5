// The seam: dense algebra that solvers are written against. A solver never knows where its numbers live.
//
// Public methods check shapes and aliasing once and call a protected virtual, so a backend author writes only
// mathematics. Calls are asynchronous on the backend's stream; methods named fetch_* wait and bring a number to
// the host. One backend is used by one host thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sparlow/error.hpp"
#include "sparlow/export.hpp"
#include "sparlow/matrix.hpp"
#include "sparlow/pattern.hpp"
#include "sparlow/view.hpp"

namespace sparlow {

enum class Op { none, transpose };

// What a product owes its caller: full = f32 rounding; reduced = an error that the next iteration or a final refit
// corrects, so the backend may use its Precision for it.
enum class Accuracy { full, reduced };

// Arithmetic of `reduced` products on a device that has a choice. Significands: f32 24 bits; tf32 and f16 11 bits (f16
// operands are scaled, so that their range does not matter); sums are f32 throughout. The CPU backend always uses f32.
enum class Precision { f32, tf32, f16 };

// A symmetric positive semi-definite matrix h with a shift: its smoother m = h (h + shift I)^-1, which is what one
// ADMM step and the low-rank step multiply by (no cancelling subtraction, unlike the inverse).
class SPARLOW_API GramFactor {
 public:
  virtual ~GramFactor() = default;

  Index size() const { return matrix().rows; }
  virtual ConstView matrix() const = 0;
  // Prepares m; free when the shift is the last one. Throws Error(numerical) when h + shift I is not positive definite.
  void set_shift(double shift);
  double shift() const { return shift_; }
  // y = x m, of reduced accuracy; x and y must not overlap.
  void apply_smoother(ConstView x, View y);
  // out (1 x n) = diagonal of m
  void smoother_diagonal(View out);

 protected:
  virtual void do_set_shift(double shift) = 0;
  virtual void do_apply_smoother(ConstView x, View y) = 0;
  virtual void do_smoother_diagonal(View out) = 0;

 private:
  double shift_ = std::numeric_limits<double>::quiet_NaN();  // of the prepared smoother; NaN: none
};

// One ADMM iteration on the sparse part, in the single-array form: t holds the sparse copy on the mask and the scaled
// dual off it, a = (t on the mask, -t off it) is their reflection.
//   s = a - (a - z) m;  t' = s + (dual off the mask);  t += relaxation (t' - t) + momentum velocity;  mask =
//   project(t)
struct AdmmStep {
  ConstView w;    // target, scaled coordinates
  View t;         // state
  MaskView mask;  // support
  View residual;  // in: a - z with z = w - low-rank part; out: w - a of the new state
  View scratch;   // same shape, overwritten
  View velocity;  // last change of t; empty when relaxation is 1 and momentum 0
  View sparse;    // out: s; empty when not wanted
  double relaxation = 1;
  double momentum = 0;
  double dual_scale = 1;  // the new dual is multiplied by it: old over new penalty
  Pattern pattern;
  std::vector<Index> row_counts;  // rows of each stacked matrix; a whole-matrix pattern is applied to each
  bool negated = false;           // residual comes in as z - a: what the last step left when l = 0
};

// A signed term c = b o plain beside the state of AdmmStep, b = +1 where signs is 1 and -1 where it is 0. Between
// gather and spread the caller fits plain to magnitude.
struct SignedTurn {
  ConstView target;    // w + c
  View w, t;           // as in AdmmStep, both less c
  ConstMaskView mask;  // support of the sparse copy
  MaskView signs;
  ConstView plain;
  View magnitude;  // |t + c| off the mask; on it, where the sparse copy takes what c leaves, plain
};

// Conjugate gradients (Polak-Ribiere, one direction and step length per row) on min tr((gap - l) h (gap - l)^T) over
// the entries of s on a mask; gap = w - s. Between a move and a turn the caller may refit l.
struct CgState {
  View gap;        // w - s
  View gradient;   // gap h
  ConstView full;  // (gap - l) h: what the caller provides before start and turn
  View residual;   // full on the mask
  View direction;
  ConstView product;  // direction h: what the caller provides before move
  ConstMaskView mask;
  View norms;  // rows x 1: squared row norms of residual
};

// Prunes columns from left to right; what an entry loses is made up by the columns to its right as well as they can
// (optimal brain surgeon). u is the inverse factor of the Gram matrix, see Backend::inverse_factor.
struct ColumnPruning {
  View w;              // in: target of these columns; out: what is kept of it, adjusted on the way, zeros elsewhere
  ConstView factor;    // columns x columns: the diagonal block of u that belongs to them
  ConstView diagonal;  // 1 x columns: its diagonal
  MaskView mask;       // what stays; chosen here for an n:m pattern (largest |w_j / u_jj| of a group), else given
  View error;          // out: e_j = (w_j pruned) / u_jj; later columns k still owe sum_j e_j u_jk
  Pattern pattern;
};

class SPARLOW_API Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const = 0;
  // For products of reduced accuracy from here on.
  virtual void set_precision(Precision) {}
  // Blocks until everything issued so far is done.
  virtual void wait() = 0;

  // Memory -------------------------------------------------------------------------------------------------
  Matrix matrix(Index rows, Index cols);
  Mask mask(Index rows, Index cols);
  void upload(const std::vector<float>& values, View out);
  std::vector<float> fetch_values(ConstView x);
  void copy(ConstView x, View out);
  void copy_mask(ConstMaskView x, MaskView out);

  // Dense algebra ------------------------------------------------------------------------------------------
  // c = alpha op(a) op(b) + beta c
  void gemm(double alpha, ConstView a, Op op_a, ConstView b, Op op_b, double beta, View c,
            Accuracy accuracy = Accuracy::full);
  // gram (upper triangle) += x^T x
  void gram_update(TypedView x, View gram);
  // Copies the upper triangle below the diagonal.
  void symmetrise(View gram);
  // out_ij = gram_ij inverse_scale_i inverse_scale_j off the diagonal, out_jj = diagonal_j (both 1 x n)
  void normalise_gram(ConstView gram, ConstView inverse_scale, ConstView diagonal, View out);
  // x_ij moves towards 0 by threshold >= 0, and stops there.
  void shrink(View x, double threshold);
  // y = alpha x + beta y
  void axpby(double alpha, ConstView x, double beta, View y);
  // x_ij *= scale_j (inverse: /=, columns with scale 0 become 0)
  void scale_columns(View x, ConstView scale, bool inverse);
  // Fills with standard normal numbers that depend on seed only.
  void randn(View out, std::uint64_t seed);
  // Replaces y (rows >= cols) by an orthonormal basis that contains its column space.
  void orthonormalise(View y);
  // a = e diag(values) e^T with ascending values; e replaces a (columns are eigenvectors). a is small.
  void small_eigh(View a, View values);
  std::unique_ptr<GramFactor> factor(ConstView gram);
  // u upper triangular with gram^-1 = u^T u; diagonal (1 x n) that of u. Throws Error(numerical) when gram is not
  // positive definite.
  void inverse_factor(ConstView gram, View u, View diagonal);

  // Reductions (f64 accumulation) --------------------------------------------------------------------------
  bool fetch_all_finite(ConstView x);
  double fetch_dot(ConstView x, ConstView y);
  // tr(e gram e^T) with f64 products, gram symmetric
  double fetch_quadratic(ConstView e, ConstView gram);

  // Patterns -----------------------------------------------------------------------------------------------
  // mask = the entries of largest |score| that the pattern allows
  void project(ConstView score, const Pattern& pattern, MaskView mask);
  // mask = (x != 0)
  void nonzeros(ConstView x, MaskView mask);
  // mask = (x >= 0); NaN counts as negative
  void signs(ConstView x, MaskView mask);
  // Entries that differ.
  Index fetch_changed(ConstMaskView a, ConstMaskView b);
  // Multiplies entries on the mask by kept and the others by pruned.
  void scale_by_mask(View x, ConstMaskView mask, double kept, double pruned);

  // Composites ---------------------------------------------------------------------------------------------
  void admm_step(GramFactor& factor, AdmmStep& step);
  // Between steps: the dual and the velocity times dual_scale, residual = w - a.
  void admm_reflect(AdmmStep& step);
  void signed_gather(SignedTurn& turn);  // t += c; then signs of t, and magnitude; w may be overwritten
  void signed_spread(SignedTurn& turn);  // t -= c; w = target - c; magnitude may be overwritten
  void cg_start(CgState& state);         // residual, norms, first direction
  void cg_move(CgState& state);          // best step along direction in every row: updates gap and gradient
  void cg_turn(CgState& state);          // next residual, norms and direction
  void prune_columns(ColumnPruning& block);

 protected:
  friend class BackendDecorator;

  virtual std::shared_ptr<void> do_allocate(std::size_t bytes) = 0;
  virtual void do_upload(const float* values, View out) = 0;
  virtual void do_download(ConstView x, float* values) = 0;
  virtual void do_copy(ConstView x, View out) = 0;
  virtual void do_copy_mask(ConstMaskView x, MaskView out) = 0;
  virtual void do_gemm(double alpha, ConstView a, Op op_a, ConstView b, Op op_b, double beta, View c,
                       Accuracy accuracy) = 0;
  virtual void do_gram_update(TypedView x, View gram) = 0;
  virtual void do_symmetrise(View gram) = 0;
  virtual void do_normalise_gram(ConstView gram, ConstView inverse_scale, ConstView diagonal, View out) = 0;
  virtual void do_shrink(View x, double threshold) = 0;
  virtual void do_axpby(double alpha, ConstView x, double beta, View y) = 0;
  virtual void do_scale_columns(View x, ConstView scale, bool inverse) = 0;
  virtual void do_randn(View out, std::uint64_t seed) = 0;
  virtual void do_orthonormalise(View y) = 0;
  virtual void do_small_eigh(View a, View values) = 0;
  virtual std::unique_ptr<GramFactor> do_factor(ConstView gram) = 0;
  virtual void do_inverse_factor(ConstView gram, View u, View diagonal) = 0;
  virtual bool do_all_finite(ConstView x) = 0;
  virtual double do_dot(ConstView x, ConstView y) = 0;
  virtual double do_quadratic(ConstView e, ConstView gram) = 0;
  virtual void do_project(ConstView score, const Pattern& pattern, MaskView mask) = 0;
  virtual void do_nonzeros(ConstView x, MaskView mask) = 0;
  virtual void do_signs(ConstView x, MaskView mask) = 0;
  virtual Index do_changed(ConstMaskView a, ConstMaskView b) = 0;
  virtual void do_scale_by_mask(View x, ConstMaskView mask, double kept, double pruned) = 0;
  virtual void do_admm_step(GramFactor& factor, AdmmStep& step);
  virtual void do_admm_reflect(AdmmStep& step);
  virtual void do_signed_gather(SignedTurn& turn);
  virtual void do_signed_spread(SignedTurn& turn);
  virtual void do_cg_start(CgState& state) = 0;
  virtual void do_cg_move(CgState& state) = 0;
  virtual void do_cg_turn(CgState& state) = 0;
  virtual void do_prune_columns(ColumnPruning& block);
};

// device: "cpu", "cuda" or "cuda:N". stream: a native stream handle to borrow (0: the backend's own or default).
// Throws Error(unavailable) that names what is missing.
SPARLOW_API std::unique_ptr<Backend> make_backend(std::string_view device, std::uintptr_t stream = 0);
SPARLOW_API std::unique_ptr<Backend> make_cpu_backend();

// Host threads the CPU backend uses; honours OMP_NUM_THREADS and OPENBLAS_NUM_THREADS at first use.
SPARLOW_API int num_threads();
SPARLOW_API void set_num_threads(int count);
// Calls body(begin, end) from those threads on disjoint ranges of `grain` indices that cover [0, count).
SPARLOW_API void parallel_for(Index count, Index grain, const std::function<void(Index, Index)>& body);

}  // namespace sparlow
