// Where everything on a GPU comes from: the plugin beside libsparlow, or a stub in a build without it.
#pragma once

#include <memory>

#include "sparlow/backend.hpp"
#include "sparlow/linear.hpp"

namespace sparlow {

std::unique_ptr<Backend> make_cuda_backend(int device, std::uintptr_t stream);
std::unique_ptr<LinearOps> make_cuda_linear_ops(int device);

}  // namespace sparlow
