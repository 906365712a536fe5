// Pruners of a matrix in scaled coordinates, rows of all targets stacked. Methods of their own, and the sparse steps of
// the methods that alternate.
#pragma once

#include <string>
#include <vector>

#include "sparlow/solvers.hpp"

namespace sparlow {

// SparseGPT, see sparsegpt.cpp.
class ColumnPruner {
 public:
  // block: columns between updates of the columns to their right, rounded to whole groups of an n:m pattern.
  ColumnPruner(SolverContext& context, Index block);
  // x: in the target, out its pruned version.
  void prune(View x);

 private:
  void choose(ConstView x, Index begin, MaskView mask) const;

  SolverContext& context_;
  std::vector<Index> row_counts_;
  Index width_;
};

// ALPS, see alps.cpp.
class AdmmPruner {
 public:
  struct Settings {
    Index max_iterations, check_every, refit_steps;
    double rho;
  };
  struct Outcome {
    bool settled;
    Index iterations;
  };

  AdmmPruner(SolverContext& context, Settings settings);
  // s = the pruned version of w.
  Outcome prune(ConstView w, View s);

 private:
  void restart(ConstView w);
  void reflect(ConstView w, double dual_scale);
  AdmmStep step_of(ConstView w, View s);
  void step(ConstView w, View s);
  bool check(ConstView w, Index iteration);

  SolverContext& context_;
  Settings settings_;
  Matrix t_, residual_, scratch_;
  Mask mask_, checked_mask_;
  std::vector<Index> row_counts_;
  double kept_ = 0, rho_ = 0;
  bool grown_ = false;
};

}  // namespace sparlow
