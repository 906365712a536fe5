#include <vector>

#include "capi/guard.hpp"
#include "capi/handles.hpp"

namespace {

using namespace sparlow;
using capi::given;
using capi::guarded;

LinearOps::Stream stream_of(void* stream) { return reinterpret_cast<LinearOps::Stream>(stream); }

std::unique_ptr<Layer> make_layer(const sparlow_context& context, const std::vector<StackPart>& parts) {
  if (context.ops != nullptr) return make_device_layer(context.backend, context.ops, context.stream, parts);
  return parts.size() == 1 ? make_cpu_layer(parts[0].shape, parts[0].tensors) : make_cpu_stack(parts);
}

StackPart part_of(const StoredLayer& stored) {
  if (stored.sign_rank > 0)
    fail(ErrorCode::unavailable, "layer '", stored.name, "' has a signed term, which the C interface does not run; ",
         "run it in Python, or export it dense");
  return {stored.shape, stored.tensors};
}

// A layer of stored ones; a stack has the first one's name and pattern.
std::unique_ptr<sparlow_layer> make_stored(const sparlow_context& context,
                                           const std::vector<const StoredLayer*>& layers) {
  auto made = std::make_unique<sparlow_layer>();
  std::vector<StackPart> parts;
  for (const StoredLayer* stored : layers) {
    parts.push_back(part_of(*stored));
    made->has_bias = made->has_bias || stored->tensors.bias != nullptr;
  }
  made->name = layers[0]->name;
  made->pattern = layers[0]->pattern;
  try {
    made->content = make_layer(context, parts);
  } catch (const Error& error) {
    fail(error.code(), "layer '", made->name, "': ", error.what());
  }
  return made;
}

void check_count(int64_t count) { require(count >= 1, "a stack of ", count, " layers"); }

std::unique_ptr<sparlow_context> make_context(const std::string& device, LinearOps::Stream stream) {
  auto context = std::make_unique<sparlow_context>();
  context->device = device;
  context->stream = stream;
  std::shared_ptr<Backend> backend = make_backend(device, stream);
  if (device == "cpu") return context;
  context->ops = make_linear_ops(device);
  context->backend = std::move(backend);
  return context;
}

LayerShape shape_of(const sparlow_layer_info& info) {
  require(info.format >= SPARLOW_NM24 && info.format <= SPARLOW_DENSE, "info.format is ", info.format);
  require(info.dtype >= SPARLOW_F32 && info.dtype <= SPARLOW_F16, "info.dtype is ", info.dtype);
  return {
      static_cast<Format>(info.format), static_cast<DType>(info.dtype), info.d_out, info.d_in, info.rank, info.stored};
}

}  // namespace

extern "C" {

sparlow_status sparlow_context_create(const char* device, void* stream, sparlow_context** context) {
  return guarded([&] {
    sparlow_context*& out = given(context, "context");
    out = nullptr;
    out = make_context(&given(device, "device"), stream_of(stream)).release();
  });
}

void sparlow_context_destroy(sparlow_context* context) { delete context; }

sparlow_status sparlow_layer_create(sparlow_context* context, const sparlow_checkpoint* checkpoint, const char* name,
                                    sparlow_layer** layer) {
  return sparlow_layer_create_stack(context, checkpoint, &name, 1, layer);
}

sparlow_status sparlow_layer_create_stack(sparlow_context* context, const sparlow_checkpoint* checkpoint,
                                          const char* const* names, int64_t count, sparlow_layer** layer) {
  return guarded([&] {
    sparlow_layer*& out = given(layer, "layer");
    out = nullptr;
    check_count(count);
    const Checkpoint& content = *given(checkpoint, "checkpoint").content;
    std::vector<const StoredLayer*> layers;
    for (int64_t i = 0; i < count; ++i) layers.push_back(&content.layer(&given((&given(names, "names"))[i], "name")));
    out = make_stored(given(context, "context"), layers).release();
  });
}

sparlow_status sparlow_layer_create_from(sparlow_context* context, const sparlow_layer_info* info,
                                         const sparlow_layer_tensors* tensors, sparlow_layer** layer) {
  return sparlow_layer_create_stack_from(context, &info, &tensors, 1, layer);
}

sparlow_status sparlow_layer_create_stack_from(sparlow_context* context, const sparlow_layer_info* const* infos,
                                               const sparlow_layer_tensors* const* tensors, int64_t count,
                                               sparlow_layer** layer) {
  return guarded([&] {
    sparlow_layer*& out = given(layer, "layer");
    out = nullptr;
    check_count(count);
    auto made = std::make_unique<sparlow_layer>();
    std::vector<StackPart> parts;
    for (int64_t i = 0; i < count; ++i) {
      const auto from = capi::read_struct((&given(tensors, "tensors"))[i], "tensors");
      const auto info = capi::read_struct((&given(infos, "infos"))[i], "info");
      parts.push_back({shape_of(info), {from.values, from.meta, from.u, from.v, from.bias}});
      made->has_bias = made->has_bias || from.bias != nullptr;
    }
    made->content = make_layer(given(context, "context"), parts);
    out = made.release();
  });
}

void sparlow_layer_destroy(sparlow_layer* layer) { delete layer; }

sparlow_status sparlow_layer_describe(const sparlow_layer* layer, sparlow_layer_info* info) {
  return guarded([&] {
    const LayerShape& shape = given(layer, "layer").content->shape();
    sparlow_layer_info out{};
    out.name = layer->name.empty() ? nullptr : layer->name.c_str();
    out.pattern = layer->pattern.empty() ? nullptr : layer->pattern.c_str();
    out.format = static_cast<sparlow_format>(shape.format);
    out.dtype = static_cast<sparlow_dtype>(shape.dtype);
    out.d_out = shape.d_out;
    out.d_in = shape.d_in;
    out.rank = shape.rank;
    out.stored = shape.stored;
    out.has_bias = layer->has_bias;
    capi::write_struct(out, info, "info");
  });
}

sparlow_status sparlow_layer_workspace(const sparlow_layer* layer, int64_t tokens, int64_t* bytes) {
  return guarded([&] { given(bytes, "bytes") = given(layer, "layer").content->workspace_bytes(tokens); });
}

sparlow_status sparlow_layer_forward(const sparlow_layer* layer, const sparlow_forward_args* args) {
  return guarded([&] {
    const auto a = capi::read_struct(args, "args");
    given(layer, "layer")
        .content->forward(a.x, a.y, a.tokens, a.workspace, a.workspace_bytes, stream_of(a.stream), a.overlap != 0);
  });
}
}
