// The inverse of a positive definite matrix, nearly all of it in products.
#pragma once

#include "backend/cuda_backend.hpp"

namespace sparlow::cuda {

// The upper triangle of x (whole rows, no gaps) becomes that of x^-1; the other one is left undefined.
// Returns false when x is not positive definite to f32 accuracy. Waits for the factorisation.
bool invert_positive(Context& context, const Products& products, View x);

}  // namespace sparlow::cuda
