#include "statistics.hpp"

#include <algorithm>
#include <cmath>

#include "sparlow/error.hpp"

namespace sparlow::bench {
namespace {

constexpr double kMostCalls = 10000;

double quantile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace

Json Spread::json() const {
  Json json;
  json.add("fastest", fastest).add("q1", q1).add("median", median).add("q3", q3).add("repeats", repeats);
  return json;
}

Spread spread(std::vector<double> values) {
  require(!values.empty(), "no measurement was made");
  std::sort(values.begin(), values.end());
  return {values.front(), quantile(values, 0.25), quantile(values, 0.5), quantile(values, 0.75),
          static_cast<int>(values.size())};
}

int calls_for(double seconds, double enough) {
  return seconds <= 0 ? static_cast<int>(kMostCalls)
                      : static_cast<int>(std::clamp(std::ceil(enough / seconds), 1.0, kMostCalls));
}

}  // namespace sparlow::bench
