// Formats move bits: an element is an unsigned integer of its size whose highest bit is the sign.
#pragma once

#include <cstdint>

#include "sparlow/error.hpp"

namespace sparlow::cpu {

// Calls body with a zero of the unsigned type of that size.
template <typename Body>
decltype(auto) with_element(int element_size, Body&& body) {
  switch (element_size) {
    case 2: return body(std::uint16_t{});
    case 4: return body(std::uint32_t{});
    case 8: return body(std::uint64_t{});
  }
  fail(ErrorCode::invalid_argument, "packed formats hold elements of 2, 4 or 8 bytes, not ", element_size);
}

template <typename T>
constexpr T kSign = static_cast<T>(T{1} << (8 * sizeof(T) - 1));

// +0.0 and -0.0 are zero.
template <typename T>
bool is_zero(T bits) {
  return static_cast<T>(bits & static_cast<T>(~kSign<T>)) == 0;
}

}  // namespace sparlow::cpu
