#include "core/cuda_loader.hpp"
#include "sparlow/backend.hpp"

namespace sparlow {
namespace {

// N of "cuda:N", 0 of "cuda", -1 of anything else.
int cuda_index(std::string_view device) {
  if (device == "cuda") return 0;
  if (!device.starts_with("cuda:")) return -1;
  const std::string digits(device.substr(5));
  require(!digits.empty() && digits.size() < 4 && digits.find_first_not_of("0123456789") == digits.npos, "device '",
          device, "' has no valid index; write cuda:0, cuda:1, ...");
  return std::stoi(digits);
}

}  // namespace

std::unique_ptr<Backend> make_backend(std::string_view device, std::uintptr_t stream) {
  if (device == "cpu") return make_cpu_backend();
  if (const int index = cuda_index(device); index >= 0) return make_cuda_backend(index, stream);
  fail(ErrorCode::invalid_argument, "unknown device '", device, "'; accepted: 'cpu', 'cuda', 'cuda:N'");
}

std::unique_ptr<LinearOps> make_linear_ops(std::string_view device) {
  if (const int index = cuda_index(device); index >= 0) return make_cuda_linear_ops(index);
  fail(ErrorCode::invalid_argument, "layers cannot run packed on device '", device, "'; accepted: 'cuda', 'cuda:N'");
}

}  // namespace sparlow
