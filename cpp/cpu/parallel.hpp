// A small pool of sleeping threads. OpenMP's workers would spin between regions and take the cores from OpenBLAS.
#pragma once

#include <functional>

#include "sparlow/view.hpp"

namespace sparlow::cpu {

// Calls body(begin, end) on disjoint ranges that cover [0, count), at least `grain` long, from several threads.
void parallel_for(Index count, Index grain, const std::function<void(Index, Index)>& body);

// Sum of body(begin, end) over ranges whose bounds depend on count and grain alone: the same result for any number
// of threads.
double parallel_sum(Index count, Index grain, const std::function<double(Index, Index)>& body);

// Rows that make about 64 thousand elements.
Index row_grain(Index cols);

// Calls row(i) for every row of x.
template <typename Row>
void for_rows(ConstView x, Row&& row) {
  parallel_for(x.rows, row_grain(x.cols), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) row(i);
  });
}

}  // namespace sparlow::cpu
