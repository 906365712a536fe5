#include <algorithm>
#include <cmath>
#include <numeric>

#include "sparlow/solvers.hpp"

namespace sparlow {
namespace {

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row.back();
}

void check_value(const Method& method, const OptionSpec& spec, double value) {
  require(value >= spec.low && value <= spec.high, method.name, ": option ", spec.name, " = ", value, " is outside [",
          spec.low, ", ", spec.high, "]");
  require(spec.kind == OptionSpec::Kind::real || value == std::floor(value), method.name, ": option ", spec.name, " = ",
          value, " is not a whole number");
}

}  // namespace

std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates) {
  const auto share = [&](const std::string& x) {  // of the longer word that has to change
    return static_cast<double>(edit_distance(name, x)) / static_cast<double>(std::max(name.size(), x.size()));
  };
  const auto closer = [&](const std::string& a, const std::string& b) { return share(a) < share(b); };
  const auto best = std::min_element(candidates.begin(), candidates.end(), closer);
  return best == candidates.end() ? std::string() : *best;
}

const Method& find_method(std::string_view name) {
  std::vector<std::string> names;
  for (const Method& method : methods()) {
    if (method.name == name) return method;
    names.emplace_back(method.name);
  }
  fail(ErrorCode::invalid_argument, "unknown method '", name, "'; did you mean '", nearest_name(name, names), "'?");
}

namespace {

const OptionSpec& find_option(const Method& method, std::string_view name) {
  std::vector<std::string> names;
  for (const OptionSpec& spec : method.options) {
    if (spec.name == name) return spec;
    names.emplace_back(spec.name);
  }
  fail(ErrorCode::invalid_argument, method.name, " has no option '", name, "'",
       names.empty() ? std::string("; it takes none") : "; did you mean '" + nearest_name(name, names) + "'?");
}

}  // namespace

std::string_view SolverContext::choice(std::string_view name) const {
  return find_option(method, name).choices[static_cast<std::size_t>(option(name))];
}

OptionValues resolve_options(const Method& method, const OptionValues& given) {
  OptionValues values;
  for (const OptionSpec& spec : method.options) values.emplace(spec.name, spec.standard);
  for (const auto& [name, value] : given) {
    check_value(method, find_option(method, name), value);
    values[name] = value;
  }
  return values;
}

double option_value(const Method& method, std::string_view option, std::string_view text) {
  const OptionSpec& spec = find_option(method, option);
  if (spec.kind != OptionSpec::Kind::choice)
    fail(ErrorCode::invalid_argument, method.name, ": option ", option, " = '", text, "' is not a number");
  const auto found = std::find(spec.choices.begin(), spec.choices.end(), text);
  if (found != spec.choices.end()) return static_cast<double>(found - spec.choices.begin());
  std::string names;
  for (std::string_view choice : spec.choices) names += (names.empty() ? "" : ", ") + std::string(choice);
  fail(ErrorCode::invalid_argument, method.name, ": option ", option, " = '", text, "' is not one of ", names);
}

}  // namespace sparlow
