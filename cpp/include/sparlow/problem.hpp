// What a solver is given and what it answers.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sparlow/backend.hpp"
#include "sparlow/export.hpp"

namespace sparlow {

// h + diagonal diag(h) + mean mean(diag h) I
struct Damping {
  double diagonal = 0.005;
  double mean = 0.005;
};

// One weight matrix w (d_out x d_in) to become s + u v, rank(u v) <= rank, for some methods plus a signed term.
struct Target {
  std::string name;
  ConstView w;
  Index rank = 0;
};

// Weights that read the same input share one Gram matrix and are solved together.
struct Problem {
  std::vector<Target> targets;
  Pattern pattern;
  ConstView gram;  // x^T x (d_in x d_in, symmetric), undamped; empty when the method needs none
  Damping damping;
  std::uint64_t seed = 0;
  std::function<bool()> should_stop;  // polled between iterations; true raises Error(cancelled)
};

struct Decomposition {
  Matrix s;  // d_out x d_in, exact zeros off the support
  Matrix u;  // d_out x rank
  Matrix v;  // rank x d_in
  // The signed term b o (sign_u sign_v), b = +1 where signs is 1 and -1 where it is 0; empty for methods without one.
  Mask signs;     // d_out x d_in
  Matrix sign_u;  // d_out x sign rank
  Matrix sign_v;  // sign rank x d_in
};

struct Report {
  std::string status;  // "direct", "completed" (a fixed schedule), "converged" or "iteration_limit"
  Index iterations = 0;
  double loss = 0;           // tr(e h e^T), e = w minus the decomposition, h undamped; NaN without a Gram matrix
  double relative_loss = 0;  // loss / tr(w h w^T)
  double density = 0;        // non-zeros of s / entries
  double damping_used = 0;   // diagonal + mean coefficient in force; above the asked sum when it had to be raised
  Index dead_columns = 0;    // inputs that were always zero
  double seconds = 0;        // of the whole group of targets that were solved together
};

struct Solution {
  Decomposition factors;
  Report report;
};

// The Gram matrix in scaled coordinates: damped, columns brought to one scale, factored on demand, shared by all
// targets.
class SPARLOW_API ScaledGram {
 public:
  // diagonal_only: checks the matrix and has the input norms, nothing else.
  ScaledGram(Backend& backend, ConstView gram, Damping damping, bool diagonal_only = false);

  GramFactor& factor() { return *factor_; }
  ConstView scaled() const { return scaled_.view(); }  // diag(1/n) (damped h) diag(1/n)
  // 1 x d_in: n, at first d^1/2 with d the diagonal of the damped h (so that scaled has unit diagonal); 0 when dead
  ConstView scale() const { return scale_.view(); }
  ConstView input_norms() const { return norms_.view(); }  // 1 x d_in: undamped h_jj^1/2
  Index dead_columns() const { return dead_columns_; }
  double damping_used() const { return damping_.diagonal + damping_.mean + raised_; }

  // Multiplies n_j by the part of input j that the other inputs do not predict (ridge regression on them), so that the
  // size of a scaled weight says what pruning it costs once the others have adjusted.
  void scale_by_leverage();

  // u upper triangular with scaled^-1 = u^T u; made at the first call. Raises the damping like set_shift.
  ConstView inverse_factor();
  ConstView inverse_factor_diagonal() const { return inverse_factor_diagonal_.view(); }  // 1 x d_in

  // Prepares the smoother for `shift`. While the matrix is not positive definite a share of its diagonal is added to
  // it, 1e-6 at first, then tenfold. Throws Error(numerical) when all damping together would pass 1.
  void set_shift(double shift);

 private:
  void build();
  void rescale(const std::vector<double>& unpredicted);
  // Calls attempt, with ever more damping while it finds the matrix indefinite.
  void while_raising(const std::function<void()>& attempt);

  Backend& backend_;
  ConstView gram_;
  Damping damping_;
  std::vector<float> diagonal_, scaled_diagonal_;
  Matrix scaled_, scale_, inverse_scale_, norms_, inverse_factor_, inverse_factor_diagonal_;
  std::unique_ptr<GramFactor> factor_;
  Index dead_columns_ = 0;
  double raised_ = 0;  // extra share of the scaled diagonal, added when a factorisation failed
};

}  // namespace sparlow
