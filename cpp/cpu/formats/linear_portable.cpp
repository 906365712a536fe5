// Rows in plain C++, and the choice between the instruction sets.
#include <cstdlib>
#include <string_view>

#include "cpu/formats/convert.hpp"
#include "cpu/formats/linear_rows.hpp"

namespace sparlow::cpu {
namespace {

struct Eight {
  float lane[8];
};

template <class T>
struct Lane {
  using Element = T;
  using Input = float;
  using Acc = Eight;
  using Weights = Eight;
  static constexpr int kParts = 1;
  static constexpr Index kColumns = 8;

  static Acc zero() { return {}; }
  static Acc plus(const Acc& a, const Acc& b) {
    Acc out;
    for (int i = 0; i < 8; ++i) out.lane[i] = a.lane[i] + b.lane[i];
    return out;
  }
  static float sum(const Acc& a) {
    return ((a.lane[0] + a.lane[4]) + (a.lane[1] + a.lane[5])) + ((a.lane[2] + a.lane[6]) + (a.lane[3] + a.lane[7]));
  }
  static unsigned mask(const std::uint8_t* masks) { return masks[0]; }
  static Weights reload(const Input* weights) {
    Weights out;
    for (int i = 0; i < 8; ++i) out.lane[i] = weights[i];
    return out;
  }
  static void store(const Weights& weights, Input* out) {
    for (int i = 0; i < 8; ++i) out[i] = weights.lane[i];
  }
  static void multiply(Acc& acc, const Weights& weights, const Input* x) {
    for (int i = 0; i < 8; ++i) acc.lane[i] += weights.lane[i] * x[i];
  }
  static Weights load(const Element* values, Index columns) {
    Weights out{};
    for (int i = 0; i < 8 && i < columns; ++i) out.lane[i] = to_float(values[i]);
    return out;
  }
  static Weights whole(const Element* values) { return load(values, 8); }
  static Weights expand_half(const Element* values, unsigned mask) { return expand(values, 4, mask); }
  static Weights expand(const Element* values, Index, unsigned mask) {
    Weights out{};
    for (int i = 0; mask != 0; ++i, mask >>= 1)
      if (mask & 1) out.lane[i] = to_float(*values++);
    return out;
  }
  // Nibble -> bits of its two positions; 0, which no group has, -> none.
  static unsigned positions(unsigned nibble) { return nibble == 0 ? 0 : 1u << (nibble & 3) | 1u << (nibble >> 2); }
  static void masks_of_nibbles(const std::uint8_t* meta, Index bytes, std::uint8_t* masks) {
    for (Index i = 0; i < bytes; ++i)
      masks[i] = static_cast<std::uint8_t>(positions(meta[i] & 15u) | positions(meta[i] >> 4u) << 4);
  }
};

}  // namespace
}  // namespace sparlow::cpu

#include "cpu/formats/linear_kernels.hpp"

namespace sparlow::cpu {
namespace {

const RowKernels& choose() {
  const char* asked = std::getenv("SPARLOW_CPU");
  const RowKernels* best = portable_rows();
  for (const RowKernels* kernels : {portable_rows(), avx2_rows(), avx512_rows()}) {
    if (kernels != nullptr) best = kernels;
    if (kernels != nullptr && asked != nullptr && std::string_view(asked) == kernels->name) break;
  }
  return *best;
}

}  // namespace

const RowKernels* portable_rows() {
  static const RowKernels kernels = table<Lane<Bf16>, Lane<F16>, Lane<float>>("portable");
  return &kernels;
}

const RowKernels& row_kernels() {
  static const RowKernels& kernels = choose();
  return kernels;
}

}  // namespace sparlow::cpu
