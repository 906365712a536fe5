// Where CUDA backends come from: the plugin beside libsparlow, or a stub in a build without it.
#pragma once

#include <memory>

#include "sparlow/backend.hpp"

namespace sparlow {

std::unique_ptr<Backend> make_cuda_backend(int device, std::uintptr_t stream);

}  // namespace sparlow
