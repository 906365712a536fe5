#include "formats/nm24_linear.hpp"

#include <algorithm>

#include "formats/device.hpp"

namespace sparlow::cuda {
namespace {

nm24::Nm24Shape kernel_shape(const LinearShape& shape) {
  nm24::Nm24Shape out{};
  out.d_in = static_cast<int>(shape.d_in), out.rank = static_cast<int>(shape.rank), out.parts = shape.parts;
  for (int p = 0; p < shape.parts; ++p) out.rows[p] = static_cast<int>(shape.part_rows(p));
  return out;
}

struct Offsets {
  std::size_t weights, u, v, end;
};
Offsets offsets_of(const nm24::Nm24Shape& shape) {
  const nm24::Nm24Bytes bytes = nm24::nm24_bytes(shape);
  const std::size_t u = aligned(bytes.weights), v = u + aligned(bytes.u);
  return {0, u, v, v + aligned(bytes.v)};
}

// A part as a layer of its own, and where it lies.
struct Part {
  nm24::Nm24Shape shape;
  Offsets offset;
};
Part part_of(const nm24::Nm24Shape& whole, int part) {
  if (part == LinearOps::kAllParts) return {whole, offsets_of(whole)};
  nm24::Nm24Shape before = whole;
  before.parts = part;
  const nm24::Nm24Bytes skipped = nm24::nm24_bytes(before);
  const Offsets all = offsets_of(whole);
  nm24::Nm24Shape shape{};
  shape.d_in = whole.d_in, shape.rank = whole.rank, shape.rows[0] = whole.rows[part];
  return {shape, {skipped.weights, all.u + skipped.u, all.v + skipped.v, all.end}};
}

// Of one launch, which bounds the scratch: more are cut into pieces, whose weights are then read again, a small share
// of the time by then.
constexpr Index kMostTokens = 16384;
constexpr std::size_t kElement = 2;

}  // namespace

std::size_t Nm24Linear::packed_bytes(const LinearShape& shape) const { return offsets_of(kernel_shape(shape)).end; }

void Nm24Linear::pack(const LinearShape& shape, int part, Index rank, const LinearTensors& from, void* packed,
                      cudaStream_t stream) const {
  const nm24::Nm24Shape s = kernel_shape(shape);
  const Offsets offset = offsets_of(s);
  check(nm24::nm24_pack(s, part, {from.values, from.meta, from.u, from.v, static_cast<int>(rank)}, packed,
                        at(packed, offset.u), at(packed, offset.v), stream),
        "nm24_pack");
}

void Nm24Linear::unpack(const LinearShape& shape, int part, const void* packed, const LinearTensors& to,
                        cudaStream_t stream) const {
  const auto [s, offset] = part_of(kernel_shape(shape), part);
  check(nm24::nm24_unpack(s, at(packed, offset.weights), at(packed, offset.u), at(packed, offset.v),
                          {to.values, to.meta, to.u, to.v}, stream),
        "nm24_unpack");
}

void Nm24Linear::forward(const LinearShape& shape, int part, const void* packed, const void* bias, const void* x,
                         void* y, Index tokens, cudaStream_t stream, bool overlap) {
  const auto [s, offset] = part_of(kernel_shape(shape), part);
  for (Index first = 0; first < tokens; first += kMostTokens) {
    const int count = static_cast<int>(std::min(kMostTokens, tokens - first));
    nm24::Nm24Call call{};
    call.weights = at(packed, offset.weights), call.u = at(packed, offset.u), call.v = at(packed, offset.v);
    call.bias = bias;
    call.x = at(x, static_cast<std::size_t>(first * s.d_in) * kElement);
    call.y = at(y, static_cast<std::size_t>(first * s.d_out()) * kElement);
    call.tokens = count;
    call.overlap = overlap;
    call.type = shape.dtype == DType::bf16 ? nm24::Half::bfloat16 : nm24::Half::float16;
    run(s, call, stream);
  }
}

void Nm24Linear::run(const nm24::Nm24Shape& shape, nm24::Nm24Call& call, cudaStream_t stream) {
  const bool aligned_x = reinterpret_cast<std::uintptr_t>(call.x) % 16 == 0;
  const nm24::Nm24Plan plan = nm24::nm24_plan(shape, call.tokens, aligned_x, device_);
  const auto room = [&](Workspaces& from, std::size_t bytes) { return bytes ? from.get(bytes, stream) : nullptr; };
  call.workspace = room(mailboxes_, plan.workspace), call.scratch = room(scratch_, plan.scratch);
  check(nm24::nm24_forward(shape, plan, call, stream), "nm24_forward");
}

std::string_view Nm24Linear::kernel(const LinearShape& shape, Index tokens) const {
  return nm24::nm24_name(
      nm24::nm24_plan(kernel_shape(shape), static_cast<int>(std::min(kMostTokens, tokens)), true, device_));
}

}  // namespace sparlow::cuda
