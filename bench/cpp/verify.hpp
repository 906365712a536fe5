// Is what was timed also right?
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "device.hpp"
#include "tensors.hpp"

namespace sparlow::bench {

// A product y [tokens, d_out] = x w^T of elements of `dtype`.
struct Product {
  std::string name;
  Index tokens, d_out, d_in;
  DType dtype;
  std::function<std::vector<double>(Index)> row;  // of w
};

// Memory for y that no product leaves as it is: all NaN.
std::vector<std::byte> poison(const Product& product);

// Root mean square error of some entries of the last token against sums in f64, relative to their root mean square.
// Throws Error(internal) when it is no rounding error, or when an entry of y was not written.
double verify(Device& device, const Product& product, const std::vector<std::byte>& x, const Uploaded& y);

}  // namespace sparlow::bench
