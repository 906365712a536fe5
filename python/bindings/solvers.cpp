#include "sparlow/solvers.hpp"

#include "bindings.hpp"
#include "sparlow/decorators.hpp"

namespace sparlow::bindings {
namespace {

struct PyTarget {
  std::string name;
  PyView w, s, u, v;  // s, u, v receive the result
  Index rank;
  std::optional<PyView> signs, sign_u, sign_v;  // and these, for a method with a signed term
};

void copy_out(Backend& backend, const Decomposition& factors, const PyTarget& target) {
  backend.copy(factors.s, target.s.view());
  backend.copy(factors.u, target.u.view());
  backend.copy(factors.v, target.v.view());
  if (factors.signs.empty()) return;
  require(target.signs && target.sign_u && target.sign_v, target.name, ": nowhere to put the signed term");
  backend.copy_mask(factors.signs, target.signs->mask());
  backend.copy(factors.sign_u, target.sign_u->view());
  backend.copy(factors.sign_v, target.sign_v->view());
}

py::dict describe(const Report& report) {
  py::dict out;
  out["status"] = report.status;
  out["iterations"] = report.iterations;
  out["loss"] = report.loss;
  out["relative_loss"] = report.relative_loss;
  out["density"] = report.density;
  out["damping_used"] = report.damping_used;
  out["dead_columns"] = report.dead_columns;
  out["seconds"] = report.seconds;
  return out;
}

// Lets Ctrl-C in Python end a long solve, and any exception of a signal handler reach the caller as it is.
bool interrupted() {
  py::gil_scoped_acquire acquire;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  return false;
}

Problem make_problem(const std::vector<PyTarget>& targets, const std::string& pattern, std::optional<PyView> gram,
                     std::pair<double, double> damping, std::uint64_t seed) {
  Problem problem;
  for (const PyTarget& target : targets) problem.targets.push_back({target.name, target.w.view(), target.rank});
  problem.pattern = Pattern::parse(pattern);
  if (gram) problem.gram = gram->view();
  problem.damping = {damping.first, damping.second};
  problem.seed = seed;
  return problem;
}

std::vector<Report> solve_into(Backend& backend, const std::string& method, const std::vector<PyTarget>& targets,
                               const std::string& pattern, std::optional<PyView> gram,
                               std::pair<double, double> damping, const OptionValues& options, std::uint64_t seed) {
  Problem problem = make_problem(targets, pattern, gram, damping, seed);
  problem.should_stop = interrupted;
  std::vector<Solution> solutions = solve(backend, method, problem, options);
  std::vector<Report> reports;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    copy_out(backend, solutions[i].factors, targets[i]);
    reports.push_back(solutions[i].report);
  }
  backend.wait();
  return reports;
}

// s, and u v = l in the first `rank` columns and rows of u and v, which have room for min(rows, cols).
py::dict robust_pca_into(Backend& backend, const PyView& w, const PyView& s, const PyView& u, const PyView& v,
                         Index max_iterations, double tolerance) {
  PrincipalParts parts;
  {
    const py::gil_scoped_release release;
    parts = robust_pca(backend, w.view(), max_iterations, tolerance, [] { interrupted(); });
    backend.copy(parts.s, s.view());
    best_factors(backend, parts.l, u.view().col_slice(0, parts.rank), v.view().row_slice(0, parts.rank));
    backend.wait();
  }
  py::dict out;
  out["rank"] = parts.rank;
  out["iterations"] = parts.iterations;
  out["gap"] = parts.gap;
  out["converged"] = parts.converged;
  return out;
}

// Shapes only: addresses are invented, nothing is read.
py::dict estimate(const std::string& method, const std::vector<std::tuple<Index, Index, Index>>& shapes,
                  const std::string& pattern, const OptionValues& options) {
  DryRun dry = make_dry_run();
  std::vector<Matrix> weights;
  Problem problem;
  problem.pattern = Pattern::parse(pattern);
  for (const auto& [rows, cols, rank] : shapes) {
    weights.push_back(dry.backend->matrix(rows, cols));
    problem.targets.push_back({"layer", weights.back().view(), rank});
  }
  const Index d_in = shapes.empty() ? 0 : std::get<1>(shapes.front());
  Matrix gram = dry.backend->matrix(d_in, d_in);
  problem.gram = gram.view();
  solve(*dry.backend, method, problem, options);
  py::dict out;
  out["peak_bytes"] = dry.estimate->peak_bytes;
  out["flops"] = dry.estimate->flops;
  return out;
}

void retarget_into(Backend& backend, const std::vector<PyView>& weights, const PyView& gram, const PyView& drift,
                   std::pair<double, double> damping, double share, const std::vector<PyView>& out) {
  std::vector<ConstView> from;
  std::vector<View> to;
  for (const PyView& w : weights) from.push_back(w.view());
  for (const PyView& w : out) to.push_back(w.view());
  retarget(backend, from, gram.view(), drift.view(), {damping.first, damping.second}, share, to);
}

py::dict describe(const OptionSpec& spec) {
  constexpr const char* kinds[] = {"integer", "real", "flag", "choice"};
  py::dict out;
  out["name"] = spec.name;
  out["kind"] = kinds[static_cast<int>(spec.kind)];
  if (spec.kind == OptionSpec::Kind::choice) out["default"] = spec.choices[static_cast<std::size_t>(spec.standard)];
  else out["default"] = spec.standard;
  out["low"] = spec.low;
  out["high"] = spec.high;
  out["doc"] = spec.doc;
  out["choices"] = py::tuple(py::cast(std::vector<std::string_view>(spec.choices.begin(), spec.choices.end())));
  return out;
}

py::list list_methods() {
  constexpr const char* uses[] = {"none", "diagonal", "full"};
  py::list out;
  for (const Method& method : methods()) {
    py::dict row;
    row["name"] = method.name;
    row["title"] = method.title;
    row["citation"] = method.citation;
    row["needs_gram"] = uses[static_cast<int>(method.gram)];
    row["low_rank"] = method.low_rank;
    row["signed_term"] = method.signed_term;
    py::list options;
    for (const OptionSpec& spec : method.options) options.append(describe(spec));
    row["options"] = options;
    out.append(row);
  }
  return out;
}

}  // namespace

void register_solvers(py::module_& module) {
  py::class_<PyTarget>(module, "Target")
      .def(py::init<std::string, PyView, PyView, PyView, PyView, Index, std::optional<PyView>, std::optional<PyView>,
                    std::optional<PyView>>(),
           py::arg("name"), py::arg("w"), py::arg("s"), py::arg("u"), py::arg("v"), py::arg("rank"),
           py::arg("signs") = py::none(), py::arg("sign_u") = py::none(), py::arg("sign_v") = py::none());
  py::class_<Report>(module, "Report").def("as_dict", [](const Report& report) { return describe(report); });
  module.def("solve", &solve_into, py::arg("backend"), py::arg("method"), py::arg("targets"), py::arg("pattern"),
             py::arg("gram"), py::arg("damping"), py::arg("options"), py::arg("seed"),
             py::call_guard<py::gil_scoped_release>());
  module.def(
      "relative_loss",
      [](Backend& backend, const PyView& w, const PyView& w_hat, const PyView& gram) {
        return relative_loss(backend, w.view(), w_hat.view(), gram.view());
      },
      py::arg("backend"), py::arg("w"), py::arg("w_hat"), py::arg("gram"), py::call_guard<py::gil_scoped_release>());
  module.def("retarget", &retarget_into, py::arg("backend"), py::arg("weights"), py::arg("gram"), py::arg("drift"),
             py::arg("damping"), py::arg("share"), py::arg("out"), py::call_guard<py::gil_scoped_release>());
  module.def("robust_pca", &robust_pca_into, py::arg("backend"), py::arg("w"), py::arg("s"), py::arg("u"), py::arg("v"),
             py::arg("max_iterations"), py::arg("tolerance"));
  module.def("estimate", &estimate, py::arg("method"), py::arg("shapes"), py::arg("pattern"), py::arg("options"));
  module.def("methods", &list_methods);
  module.def("option_value", [](const std::string& method, const std::string& option, const std::string& text) {
    return option_value(find_method(method), option, text);
  });
  module.def("resolve_options", [](const std::string& method, const OptionValues& options) {
    return resolve_options(find_method(method), options);
  });
}

}  // namespace sparlow::bindings
