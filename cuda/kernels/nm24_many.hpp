// Internal: nm24_forward for plans of the kernel `many`.
#pragma once

#include "nm24.hpp"

namespace sparlow::kernels {

cudaError_t nm24_forward_many(const Nm24Shape& shape, const Nm24Plan& plan, const Nm24Call& call, cudaStream_t stream);

}  // namespace sparlow::kernels
