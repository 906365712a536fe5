#include "core/cuda_loader.hpp"

namespace sparlow {
namespace {

[[noreturn]] void refuse() {
  fail(ErrorCode::unavailable,
       "this sparlow was built without CUDA; build it with -DSPARLOW_CUDA=ON, or use device 'cpu'");
}

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(int, std::uintptr_t) { refuse(); }
std::unique_ptr<LinearOps> make_cuda_linear_ops(int) { refuse(); }

}  // namespace sparlow
