#include "device.hpp"

#include <algorithm>

#include "tensors.hpp"

namespace sparlow::bench {
namespace {

constexpr std::int64_t kCaches = 4;  // copies fill so many times the last-level cache
constexpr std::int64_t kLeastCold = 100'000'000;
constexpr int kMostCopies = 512;

}  // namespace

std::unique_ptr<Device> make_device(const std::string& name) {
  return name == "cpu" ? make_cpu_device() : make_cuda_device(name);
}

int cold_copies(const Device& device, std::int64_t bytes) {
  const std::int64_t cold = std::max(kLeastCold, kCaches * device.cache_bytes());
  return static_cast<int>(std::clamp<std::int64_t>(cold / std::max<std::int64_t>(1, bytes) + 1, 2, kMostCopies));
}

Json Ceilings::json() const {
  return Json().add("read_gbytes_per_s", 1e-9 * bytes_per_s).add("product", product).add("tflops", 1e-12 * flops);
}

Ceilings measure_ceilings(Device& device, DType dtype, bool quick) {
  const DType of = device.dense_dtype(dtype);
  const bool host = device.name() == "cpu";
  const Index side = quick ? 256 : host ? 2048 : 8192;
  const std::int64_t read = std::max(kLeastCold, kCaches * device.cache_bytes()) * (quick || host ? 1 : 4);
  const Uploaded a(device, random_values(side * side, 1, of)), b(device, random_values(side * side, 2, of));
  const Uploaded c(device, std::vector<std::byte>(static_cast<std::size_t>(side * side * bytes_of(of))));
  const Way product{[&](int) { device.dense(a.data(), b.data(), c.data(), side, side, side, of); }, 1, true, true};
  const double seconds = device.measure({product}, quick ? 3 : 15)[0].fastest;
  const double work = 2.0 * static_cast<double>(side) * static_cast<double>(side) * static_cast<double>(side);
  return {static_cast<double>(read) / device.read_seconds(read).fastest, work / seconds,
          device.dense_name(dtype) + ", " + std::to_string(side) + " cubed"};
}

}  // namespace sparlow::bench
