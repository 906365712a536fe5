// Matrices in a backend's memory with the traits of real layers.
#pragma once

#include <vector>

#include "sparlow/backend.hpp"

namespace sparlow::bench {

// Standard normal.
Matrix normal(Backend& backend, Index rows, Index cols, std::uint64_t seed);
std::vector<Matrix> copies_of(Backend& backend, ConstView from, int copies);

// The Gram matrix of `tokens` correlated inputs whose spectrum has a heavy tail and some of whose channels are
// outliers.
Matrix synthetic_gram(Backend& backend, Index size, Index tokens, std::uint64_t seed);

}  // namespace sparlow::bench
