// What libsparlow expects of the CUDA plugin, a shared library beside it.
#pragma once

#include <cstdint>

#include "sparlow/backend.hpp"
#include "sparlow/linear.hpp"

namespace sparlow {

// Changes with every change of Backend, GramFactor or LinearOps: the plugin derives from them.
constexpr int kPluginAbi = 6;

constexpr const char* kPluginFile = "libsparlow_cuda.so.0";
constexpr const char* kPluginAbiSymbol = "sparlow_cuda_abi";
constexpr const char* kPluginMakeSymbol = "sparlow_cuda_make_backend";
constexpr const char* kPluginLinearSymbol = "sparlow_cuda_make_linear_ops";

using PluginAbi = int();
// Throw Error; the caller owns the result.
using PluginMakeBackend = Backend*(int device, std::uintptr_t stream);
using PluginMakeLinearOps = LinearOps*(int device);

}  // namespace sparlow
