// The methods, one registry row each. Everything that lists methods (command line, bindings, tests, benches)
// iterates over the registry.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sparlow/export.hpp"
#include "sparlow/problem.hpp"

namespace sparlow {

struct OptionSpec {
  enum class Kind { integer, real, flag, choice };

  const char* name;
  Kind kind;
  double standard;  // default value
  double low;
  double high;
  const char* doc;
  std::span<const std::string_view> choices = {};  // of a choice, whose value is an index;
};

using OptionValues = std::map<std::string, double, std::less<>>;

struct SolverContext;

struct Method {
  enum class GramUse { none, diagonal, full };

  const char* name;
  const char* title;
  const char* citation;
  GramUse gram;
  bool low_rank;
  std::span<const OptionSpec> options;
  void (*run)(SolverContext& context);
  bool signed_term = false;  // returns one, of the rank that its option sign_rank says
};

SPARLOW_API std::span<const Method> methods();
// Name of the option that every method with a signed term has.
inline constexpr const char* kSignRank = "sign_rank";
// Throws Error(invalid_argument) that suggests the nearest name.
SPARLOW_API const Method& find_method(std::string_view name);
// Defaults filled in. Throws Error(invalid_argument) for unknown names and values out of range.
SPARLOW_API OptionValues resolve_options(const Method& method, const OptionValues& given);
// The value of a choice by its name. Throws Error(invalid_argument) with the names there are.
SPARLOW_API double option_value(const Method& method, std::string_view option, std::string_view text);

// What a method works on; the driver fills in everything but the factors.
struct SPARLOW_API SolverContext {
  Backend& backend;
  const Problem& problem;
  ScaledGram* gram;  // null when the method needs none
  const OptionValues& options;
  std::vector<Solution>& solutions;  // factors are allocated (zero); reports are empty
  const Method& method;

  double option(std::string_view name) const { return options.find(name)->second; }
  std::string_view choice(std::string_view name) const;  // of an option that is one
  void poll() const;                                     // throws Error(cancelled) when the caller asked to stop
};

// Checks the problem, runs the method, recomputes the loss of what it returned.
SPARLOW_API std::vector<Solution> solve(Backend& backend, std::string_view method, const Problem& problem,
                                        const OptionValues& options = {});

// tr(e h e^T) / tr(w h w^T) with e = w - w_hat and h undamped; 0 when both are 0.
SPARLOW_API double relative_loss(Backend& backend, ConstView w, ConstView w_hat, ConstView gram);

// out_i = w_i + share w_i drift (damped h)^-1: with drift = (x - y)^T y and h = y^T y, what on inputs y comes closest
// to w_i on inputs x (share 1), or to the mean of both outputs so weighted. Inputs that are always 0 in y change
// nothing.
SPARLOW_API void retarget(Backend& backend, std::span<const ConstView> weights, ConstView gram, ConstView drift,
                          Damping damping, double share, std::span<const View> out);

// w ~ l + s by robust PCA: min ||l||_* + ||s||_1 / sqrt(max(rows, cols)).
struct PrincipalParts {
  Matrix l, s;
  Index rank = 0;  // of l
  Index iterations = 0;
  double gap = 0;          // ||w - l - s||_F / ||w||_F
  bool converged = false;  // gap reached the tolerance
};
SPARLOW_API PrincipalParts robust_pca(Backend& backend, ConstView w, Index max_iterations, double tolerance,
                                      const std::function<void()>& poll);

// u v = the best approximation of x in the Frobenius norm whose rank is u.cols = v.rows, largest singular value first,
// equal weight on both factors.
SPARLOW_API void best_factors(Backend& backend, ConstView x, View u, View v);

// The name among candidates with the smallest edit distance.
SPARLOW_API std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace sparlow
