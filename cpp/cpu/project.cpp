// Projections on patterns: which entries stay.
#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "cpu/cpu_backend.hpp"
#include "cpu/multiversion.hpp"
#include "cpu/parallel.hpp"

namespace sparlow::cpu {
namespace {

// |x| as a whole number of the same order. NaN ranks first: it stays in s and the finite check of the result names it.
inline std::int32_t rank_value(const float& x) {
  std::int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits & 0x7fffffff;
}

// Two of four by rank: an entry stays when fewer than two beat it; of equal entries the lower index wins.
SPARLOW_MULTIVERSION void row_two_of_four(const float* x, std::uint8_t* mask, Index groups) {
  for (Index g = 0; g < groups; ++g) {
    const std::int32_t a = rank_value(x[4 * g]), b = rank_value(x[4 * g + 1]), c = rank_value(x[4 * g + 2]),
                       d = rank_value(x[4 * g + 3]);
    const int ba = b > a, ca = c > a, da = d > a, cb = c > b, db = d > b, dc = d > c;
    mask[4 * g] = ba + ca + da < 2;
    mask[4 * g + 1] = (1 - ba) + cb + db < 2;
    mask[4 * g + 2] = (1 - ca) + (1 - cb) + dc < 2;
    mask[4 * g + 3] = (1 - da) + (1 - db) + (1 - dc) < 2;
  }
}

void row_n_of_m(const float* x, std::uint8_t* mask, int n, int m, Index groups) {
  for (Index g = 0; g < groups; ++g) {
    const float* group = x + g * m;
    for (int i = 0; i < m; ++i) {
      int better = 0;
      const std::int32_t own = rank_value(group[i]);
      for (int j = 0; j < m; ++j) {
        const std::int32_t other = rank_value(group[j]);
        better += other > own || (j < i && other == own);
      }
      mask[g * m + i] = better < n;
    }
  }
}

// Marks the `kept` entries of largest magnitude among all rows of score.
void keep_largest(ConstView score, Index kept, MaskView mask) {
  std::vector<std::int32_t> values;
  values.reserve(static_cast<std::size_t>(score.size()));
  for (Index i = 0; i < score.rows; ++i)
    for (Index j = 0; j < score.cols; ++j) values.push_back(rank_value(score.row(i)[j]));
  if (kept <= 0 || kept >= score.size()) {
    for (Index i = 0; i < score.rows; ++i) std::memset(mask.row(i), kept > 0, static_cast<std::size_t>(score.cols));
    return;
  }
  std::nth_element(values.begin(), values.begin() + (kept - 1), values.end(), std::greater<>());
  const std::int32_t threshold = values[static_cast<std::size_t>(kept - 1)];
  Index ties =
      kept - std::count_if(values.begin(), values.begin() + kept, [&](std::int32_t v) { return v > threshold; });
  for (Index i = 0; i < score.rows; ++i)
    for (Index j = 0; j < score.cols; ++j) {
      const std::int32_t value = rank_value(score.row(i)[j]);
      mask.row(i)[j] = value > threshold || (value == threshold && ties-- > 0);
    }
}

}  // namespace

void project_groups_row(const float* x, const Pattern& pattern, std::uint8_t* mask, Index cols) {
  if (pattern.n == 2 && pattern.m == 4) row_two_of_four(x, mask, cols / 4);
  else row_n_of_m(x, mask, pattern.n, pattern.m, cols / pattern.m);
}

namespace {

void project_rows(ConstView score, const Pattern& pattern, MaskView mask) {
  parallel_for(score.rows, row_grain(score.cols), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      if (pattern.kind == Pattern::Kind::nm) project_groups_row(score.row(i), pattern, mask.row(i), score.cols);
      else keep_largest(score.row_slice(i, 1), pattern.kept(1, score.cols), mask.row_slice(i, 1));
    }
  });
}

}  // namespace

void CpuBackend::do_project(ConstView score, const Pattern& pattern, MaskView mask) {
  switch (pattern.kind) {
    case Pattern::Kind::matrix: return keep_largest(score, pattern.kept(score.rows, score.cols), mask);
    case Pattern::Kind::row:
    case Pattern::Kind::nm: return project_rows(score, pattern, mask);
    case Pattern::Kind::dense:
      for (Index i = 0; i < mask.rows; ++i) std::memset(mask.row(i), 1, static_cast<std::size_t>(mask.cols));
  }
}

}  // namespace sparlow::cpu
