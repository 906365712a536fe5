// The C interface (sparlow.h) for C++20: handles that free themselves, failures as exceptions. Header only, so that a
// program built by another compiler than the library can use it.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "sparlow/sparlow.h"

namespace sparlow::embed {

struct Failure : std::runtime_error {
  explicit Failure(sparlow_status status) : std::runtime_error(sparlow_last_error()), status(status) {}
  sparlow_status status;
};

inline void check(sparlow_status status) {
  if (status != SPARLOW_OK) throw Failure(status);
}

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* handle) const {
    Free(handle);
  }
};

// Makes sizes right: make<sparlow_forward_args>() is zero but for its size.
template <typename T>
T make() {
  T out{};
  out.size = sizeof(T);
  return out;
}

// Host memory at a multiple of 64, as forward passes on the CPU want it.
class Workspace {
 public:
  explicit Workspace(std::int64_t bytes) : bytes_(bytes), memory_(allocate(bytes)) {}
  void* data() const { return memory_.get(); }
  std::int64_t bytes() const { return bytes_; }

 private:
  static void* allocate(std::int64_t bytes) {
    if (bytes == 0) return nullptr;
    void* memory = std::aligned_alloc(64, (static_cast<std::size_t>(bytes) + 63) / 64 * 64);
    return memory == nullptr ? throw std::bad_alloc() : memory;
  }
  std::int64_t bytes_;
  std::unique_ptr<void, Deleter<std::free>> memory_;
};

class Context {
 public:
  explicit Context(const std::string& device, void* stream = nullptr) {
    sparlow_context* handle = nullptr;
    check(sparlow_context_create(device.c_str(), stream, &handle));
    handle_.reset(handle);
  }
  sparlow_context* get() const { return handle_.get(); }
  sparlow_report decompose(const sparlow_decompose_args& args) const {
    auto report = make<sparlow_report>();
    check(sparlow_decompose(get(), &args, &report));
    return report;
  }

 private:
  std::unique_ptr<sparlow_context, Deleter<sparlow_context_destroy>> handle_;
};

class Checkpoint {
 public:
  explicit Checkpoint(const std::string& folder) {
    sparlow_checkpoint* handle = nullptr;
    check(sparlow_checkpoint_open(folder.c_str(), &handle));
    handle_.reset(handle);
  }
  // Also a folder without compressed layers.
  static Checkpoint model(const std::string& folder) {
    sparlow_checkpoint* handle = nullptr;
    check(sparlow_checkpoint_open_model(folder.c_str(), &handle));
    return Checkpoint(handle);
  }
  const sparlow_checkpoint* get() const { return handle_.get(); }
  std::int64_t layers() const { return sparlow_checkpoint_layers(get()); }
  std::int64_t tensors() const { return sparlow_checkpoint_tensors(get()); }
  sparlow_layer_info layer(std::int64_t index) const {
    auto info = make<sparlow_layer_info>();
    check(sparlow_checkpoint_layer(get(), index, &info));
    return info;
  }
  sparlow_tensor_info tensor(const std::string& name) const {
    auto info = make<sparlow_tensor_info>();
    check(sparlow_checkpoint_find_tensor(get(), name.c_str(), &info));
    return info;
  }
  sparlow_tensor_info tensor(std::int64_t index) const {
    auto info = make<sparlow_tensor_info>();
    check(sparlow_checkpoint_tensor(get(), index, &info));
    return info;
  }
  // Of config.json, or of generation_config.json.
  sparlow_value value(const std::string& pointer, const char* file = "config.json") const {
    auto value = make<sparlow_value>();
    check(sparlow_checkpoint_value(get(), file, pointer.c_str(), &value));
    return value;
  }

 private:
  explicit Checkpoint(sparlow_checkpoint* handle) : handle_(handle) {}
  std::unique_ptr<sparlow_checkpoint, Deleter<sparlow_checkpoint_close>> handle_;
};

class Layer {
 public:
  Layer(const Context& context, const Checkpoint& checkpoint, const std::string& name) {
    sparlow_layer* handle = nullptr;
    check(sparlow_layer_create(context.get(), checkpoint.get(), name.c_str(), &handle));
    handle_.reset(handle);
  }
  // Of tensors that outlive it (on the CPU).
  Layer(const Context& context, const sparlow_layer_info& info, const sparlow_layer_tensors& tensors) {
    sparlow_layer* handle = nullptr;
    check(sparlow_layer_create_from(context.get(), &info, &tensors, &handle));
    handle_.reset(handle);
  }
  sparlow_layer_info info() const {
    auto info = make<sparlow_layer_info>();
    check(sparlow_layer_describe(handle_.get(), &info));
    return info;
  }
  std::int64_t workspace_bytes(std::int64_t tokens) const {
    std::int64_t bytes = 0;
    check(sparlow_layer_workspace(handle_.get(), tokens, &bytes));
    return bytes;
  }
  void forward(const void* x, void* y, std::int64_t tokens, const Workspace& workspace, void* stream = nullptr) const {
    auto args = make<sparlow_forward_args>();
    args.x = x;
    args.y = y;
    args.tokens = tokens;
    args.workspace = workspace.data();
    args.workspace_bytes = workspace.bytes();
    args.stream = stream;
    check(sparlow_layer_forward(handle_.get(), &args));
  }

 private:
  std::unique_ptr<sparlow_layer, Deleter<sparlow_layer_destroy>> handle_;
};

// body(begin, end) on ranges of `grain` indices that cover [0, count), from the threads that layers on the CPU use.
// body must not throw.
template <typename Body>
void parallel_for(std::int64_t count, std::int64_t grain, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  const auto call = [](void* user, std::int64_t begin, std::int64_t end) { (*static_cast<Plain*>(user))(begin, end); };
  check(sparlow_parallel_for(count, grain, call, const_cast<std::remove_const_t<Plain>*>(&body)));
}

}  // namespace sparlow::embed
