// Loads the CUDA plugin on first use, so that one build works on machines with and without a GPU.
#include <dlfcn.h>

#include <filesystem>

#include "core/cuda_loader.hpp"
#include "sparlow/plugin.hpp"

namespace sparlow {
namespace {

// The plugin lies beside the library that holds this function.
std::string plugin_path() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&make_cuda_backend), &info) == 0 || info.dli_fname == nullptr)
    fail(ErrorCode::internal, "libsparlow cannot tell where it was loaded from");
  return std::filesystem::absolute(info.dli_fname).parent_path() / kPluginFile;
}

// A library that is loaded already is not loaded twice, and a failed attempt may be repeated.
void* load(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    fail(ErrorCode::unavailable, "the CUDA plugin could not be loaded: ", dlerror(),
         "; it needs cuBLAS and cuSOLVER of CUDA 13, which a CUDA build of torch brings (or the Python packages "
         "nvidia-cublas and nvidia-cusolver), or use device 'cpu'");
  return library;
}

template <typename Function>
Function* find(void* library, const char* name, const std::string& path) {
  void* symbol = dlsym(library, name);
  if (symbol == nullptr) fail(ErrorCode::unavailable, path, " is not a CUDA plugin of sparlow: ", dlerror());
  return reinterpret_cast<Function*>(symbol);
}

// The plugin's function of that name, after making sure that it was built together with this library.
template <typename Function>
Function* plugin(const char* name) {
  const std::string path = plugin_path();
  void* library = load(path);
  if (const int abi = find<PluginAbi>(library, kPluginAbiSymbol, path)(); abi != kPluginAbi)
    fail(ErrorCode::unavailable, path, " belongs to another build of sparlow (interface ", abi, ", this library has ",
         kPluginAbi, "); install both from the same build");
  return find<Function>(library, name, path);
}

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(int device, std::uintptr_t stream) {
  return std::unique_ptr<Backend>(plugin<PluginMakeBackend>(kPluginMakeSymbol)(device, stream));
}

std::unique_ptr<LinearOps> make_cuda_linear_ops(int device) {
  return std::unique_ptr<LinearOps>(plugin<PluginMakeLinearOps>(kPluginLinearSymbol)(device));
}

}  // namespace sparlow
