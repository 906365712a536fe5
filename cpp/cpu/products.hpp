// Matrix products on the pool. OpenBLAS itself runs single-threaded: its own workers wait for each other by yielding
// the core, which costs a scheduler's slice at every wait as soon as anything else runs on the machine.
#pragma once

#include "sparlow/backend.hpp"

namespace sparlow::cpu {

// c = alpha op(a) op(b) + beta c
void gemm(double alpha, ConstView a, Op op_a, ConstView b, Op op_b, double beta, View c);

// Replaces a symmetric positive definite matrix by its inverse; false when it is not positive definite.
bool invert_spd(View a);

}  // namespace sparlow::cpu
