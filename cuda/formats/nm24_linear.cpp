#include "formats/nm24_linear.hpp"

#include <algorithm>

#include "backend/context.hpp"
#include "kernels/kernels.hpp"

namespace sparlow::cuda {
namespace {

// Makes a device current on this thread for a scope.
class Bind {
 public:
  explicit Bind(int device) : device_(device) {
    check(cudaGetDevice(&previous_), "cudaGetDevice");
    if (previous_ != device_) check(cudaSetDevice(device_), "cudaSetDevice");
  }
  ~Bind() {
    if (previous_ != device_) cudaSetDevice(previous_);
  }
  Bind(const Bind&) = delete;

 private:
  int previous_ = 0, device_;
};

nm24::Nm24Shape kernel_shape(const LinearShape& shape) {
  nm24::Nm24Shape out{};
  out.d_in = static_cast<int>(shape.d_in), out.rank = static_cast<int>(shape.rank);
  out.rows[0] = static_cast<int>(shape.d_out);
  return out;
}

struct Offsets {
  std::size_t u, v, end;
};
Offsets offsets_of(const nm24::Nm24Shape& shape) {
  constexpr std::size_t kAlign = 256;
  const auto up = [](std::size_t n) { return (n + kAlign - 1) / kAlign * kAlign; };
  const nm24::Nm24Bytes bytes = nm24::nm24_bytes(shape);
  const std::size_t u = up(bytes.weights), v = u + up(bytes.u);
  return {u, v, v + up(bytes.v)};
}

// Of one launch, which bounds the scratch: more are cut into pieces, whose weights are then read again, a small share of
// the time by then.
constexpr Index kMostTokens = 16384;
constexpr std::size_t kElement = 2;

const char* at(const void* packed, std::size_t offset) { return static_cast<const char*>(packed) + offset; }
char* at(void* packed, std::size_t offset) { return static_cast<char*>(packed) + offset; }
cudaStream_t stream_of(LinearOps::Stream stream) { return reinterpret_cast<cudaStream_t>(stream); }

}  // namespace

Nm24Linear::Nm24Linear(int device) : device_(device) {
  check_device(device);
  const Bind bind(device);
  check(kernels::has_code_for_device(), "looking for code for this GPU");
  int major = 0, minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&properties_.multiprocessors, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
  properties_.arch = 10 * major + minor;
}

std::int64_t Nm24Linear::do_packed_bytes(const LinearShape& shape) const {
  return static_cast<std::int64_t>(offsets_of(kernel_shape(shape)).end);
}

void Nm24Linear::do_pack(const LinearShape& shape, const LinearTensors& from, void* packed, Stream stream) const {
  const Bind bind(device_);
  const nm24::Nm24Shape s = kernel_shape(shape);
  const Offsets offset = offsets_of(s);
  check(nm24::nm24_pack(s, 0, {from.values, from.meta, from.u, from.v, s.rank}, packed, at(packed, offset.u),
                        at(packed, offset.v), stream_of(stream)),
        "nm24_pack");
}

void Nm24Linear::do_unpack(const LinearShape& shape, const void* packed, const LinearTensors& to, Stream stream) const {
  const Bind bind(device_);
  const nm24::Nm24Shape s = kernel_shape(shape);
  const Offsets offset = offsets_of(s);
  check(nm24::nm24_unpack(s, packed, at(packed, offset.u), at(packed, offset.v), {to.values, to.meta, to.u, to.v},
                          stream_of(stream)),
        "nm24_unpack");
}

void Nm24Linear::do_forward(const LinearShape& shape, const void* packed, const void* bias, const void* x, void* y,
                            Index tokens, Stream stream) {
  const Bind bind(device_);
  const nm24::Nm24Shape s = kernel_shape(shape);
  const Offsets offset = offsets_of(s);
  for (Index first = 0; first < tokens; first += kMostTokens) {
    const int count = static_cast<int>(std::min(kMostTokens, tokens - first));
    nm24::Nm24Call call{};
    call.weights = packed, call.u = at(packed, offset.u), call.v = at(packed, offset.v), call.bias = bias;
    call.x = at(x, static_cast<std::size_t>(first * shape.d_in) * kElement);
    call.y = at(y, static_cast<std::size_t>(first * shape.d_out) * kElement);
    call.tokens = count;
    call.type = shape.dtype == DType::bf16 ? nm24::Half::bfloat16 : nm24::Half::float16;
    run(s, call, stream_of(stream));
  }
}

void Nm24Linear::run(const nm24::Nm24Shape& shape, nm24::Nm24Call& call, cudaStream_t stream) {
  const bool aligned = reinterpret_cast<std::uintptr_t>(call.x) % 16 == 0;
  const nm24::Nm24Plan plan = nm24::nm24_plan(shape, call.tokens, aligned, properties_);
  const auto room = [&](Workspaces& from, std::size_t bytes) { return bytes ? from.get(bytes, stream) : nullptr; };
  call.workspace = room(mailboxes_, plan.workspace), call.scratch = room(scratch_, plan.scratch);
  check(nm24::nm24_forward(shape, plan, call, stream), "nm24_forward");
}

std::string_view Nm24Linear::do_kernel(const LinearShape& shape, Index tokens) const {
  return nm24::nm24_name(
      nm24::nm24_plan(kernel_shape(shape), static_cast<int>(std::min(kMostTokens, tokens)), true, properties_));
}

}  // namespace sparlow::cuda
