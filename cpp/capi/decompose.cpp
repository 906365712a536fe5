#include <algorithm>
#include <cstdio>
#include <limits>

#include "capi/guard.hpp"
#include "capi/handles.hpp"
#include "sparlow/solvers.hpp"

namespace {

using namespace sparlow;

constexpr Index kMost = std::numeric_limits<std::int32_t>::max();

Matrix upload(Backend& backend, const float* values, Index rows, Index cols) {
  Matrix out = backend.matrix(rows, cols);
  backend.upload(std::vector<float>(values, values + rows * cols), out);
  return out;
}

void download(Backend& backend, const Matrix& from, float* to) {
  if (from.empty()) return;
  const std::vector<float> values = backend.fetch_values(from);
  std::copy(values.begin(), values.end(), to);
}

void check(const sparlow_decompose_args& args) {
  require(args.d_out >= 1 && args.d_in >= 1 && args.d_out <= kMost && args.d_in <= kMost, "w cannot be ", args.d_out,
          " x ", args.d_in);
  require(args.w != nullptr && args.s != nullptr, "w or s is NULL");
  require(args.rank == 0 || (args.u != nullptr && args.v != nullptr), "u or v is NULL");
}

sparlow_report report_of(const Report& report) {
  sparlow_report out{};
  std::snprintf(out.status, sizeof out.status, "%s", report.status.c_str());
  out.iterations = report.iterations;
  out.loss = report.loss;
  out.relative_loss = report.relative_loss;
  out.density = report.density;
  out.damping_used = report.damping_used;
  out.seconds = report.seconds;
  out.dead_columns = report.dead_columns;
  return out;
}

void decompose(const sparlow_context& context, const sparlow_decompose_args& args, sparlow_report* report) {
  check(args);
  // Of its own, also on a GPU: a backend serves one thread at a time.
  const std::unique_ptr<Backend> backend = make_backend(context.device, context.stream);
  const Matrix w = upload(*backend, args.w, args.d_out, args.d_in);
  Matrix gram;
  Problem problem;
  if (args.gram != nullptr) {
    gram = upload(*backend, args.gram, args.d_in, args.d_in);
    problem.gram = gram;
  }
  problem.targets.push_back({"w", w, args.rank});
  problem.pattern = Pattern::parse(args.pattern == nullptr ? "2:4" : args.pattern);
  problem.seed = args.seed;
  const Solution solution = std::move(solve(*backend, args.method == nullptr ? "threebasil" : args.method, problem)[0]);
  download(*backend, solution.factors.s, args.s);
  download(*backend, solution.factors.u, args.u);
  download(*backend, solution.factors.v, args.v);
  if (report != nullptr) capi::write_struct(report_of(solution.report), report, "report");
}

}  // namespace

sparlow_status sparlow_decompose(sparlow_context* context, const sparlow_decompose_args* args, sparlow_report* report) {
  return capi::guarded([&] { decompose(capi::given(context, "context"), capi::read_struct(args, "args"), report); });
}
