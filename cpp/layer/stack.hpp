#pragma once

#include <vector>

#include "sparlow/layer.hpp"

namespace sparlow {

// Of all parts together. Throws Error(invalid_argument) when there is none, or when they do not read the same x.
LayerShape stack_shape(const std::vector<StackPart>& parts);

}  // namespace sparlow
