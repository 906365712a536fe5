// The inverse of a positive definite matrix, nearly all of it in products.
#pragma once

#include "backend/cuda_backend.hpp"

namespace sparlow::cuda {

// The upper triangle of x (whole rows, no gaps) becomes that of x^-1; the other one is left undefined.
// Returns false when x is not positive definite to f32 accuracy. Waits for the factorisation.
bool invert_positive(Context& context, const Products& products, View x);

// u upper triangular, zeros below, with x^-1 = u^T u for a symmetric x. False and waiting as above.
bool invert_root(Context& context, const Products& products, ConstView x, View u);

}  // namespace sparlow::cuda
