#include "core/cuda_loader.hpp"

namespace sparlow {

std::unique_ptr<Backend> make_cuda_backend(int, std::uintptr_t) {
  fail(ErrorCode::unavailable,
       "this sparlow was built without CUDA; build it with -DSPARLOW_CUDA=ON, or use device 'cpu'");
}

}  // namespace sparlow
