// Checks of shapes and aliasing that the public operations share.
#pragma once

#include "sparlow/backend.hpp"

namespace sparlow {

template <typename A, typename B>
void same_shape(const char* op, const A& a, const B& b) {
  require(a.rows == b.rows && a.cols == b.cols, op, ": shapes ", a.rows, " x ", a.cols, " and ", b.rows, " x ", b.cols,
          " differ");
}

template <typename A, typename B>
bool overlap(const A& a, const B& b) {
  if (a.empty() || b.empty()) return false;
  const auto* a_end = a.row(a.rows - 1) + a.cols;
  const auto* b_end = b.row(b.rows - 1) + b.cols;
  return static_cast<const void*>(a.data) < b_end && static_cast<const void*>(b.data) < a_end;
}

template <typename A, typename B>
void disjoint(const char* op, const A& a, const B& b) {
  require(!overlap(a, b), op, ": the output overlaps an input");
}

inline void square(const char* op, ConstView a) {
  require(a.rows == a.cols, op, ": a ", a.rows, " x ", a.cols, " matrix is not square");
}

}  // namespace sparlow
