#include "core/cuda_loader.hpp"
#include "sparlow/backend.hpp"

namespace sparlow {

std::unique_ptr<Backend> make_backend(std::string_view device, std::uintptr_t stream) {
  if (device == "cpu") return make_cpu_backend();
  if (device == "cuda") return make_cuda_backend(0, stream);
  if (device.starts_with("cuda:")) {
    const std::string digits(device.substr(5));
    require(!digits.empty() && digits.size() < 4 && digits.find_first_not_of("0123456789") == digits.npos, "device '",
            device, "' has no valid index; write cuda:0, cuda:1, ...");
    return make_cuda_backend(std::stoi(digits), stream);
  }
  fail(ErrorCode::invalid_argument, "unknown device '", device, "'; accepted: 'cpu', 'cuda', 'cuda:N'");
}

}  // namespace sparlow
