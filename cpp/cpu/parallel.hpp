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

}  // namespace sparlow::cpu
