#include "device.hpp"
#include "sparlow/backend.hpp"
#include "sparlow/error.hpp"

namespace sparlow::bench {

std::unique_ptr<Device> make_cuda_device(const std::string& name) {
  static_cast<void>(make_backend(name));  // refuses unknown names, and CUDA where the library lacks it
  fail(ErrorCode::unavailable, "these benches were built without CUDA; configure with -DSPARLOW_CUDA=ON");
}

}  // namespace sparlow::bench
