// What libsparlow expects of the CUDA plugin, a shared library beside it.
#pragma once

#include <cstdint>

#include "sparlow/backend.hpp"

namespace sparlow {

// Changes with every change of Backend or GramFactor: the plugin derives from them.
constexpr int kPluginAbi = 2;

constexpr const char* kPluginFile = "libsparlow_cuda.so.0";
constexpr const char* kPluginAbiSymbol = "sparlow_cuda_abi";
constexpr const char* kPluginMakeSymbol = "sparlow_cuda_make_backend";

using PluginAbi = int();
using PluginMakeBackend = Backend*(int device, std::uintptr_t stream);  // throws Error; the caller owns the result

}  // namespace sparlow
