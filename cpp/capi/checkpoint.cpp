#include "capi/guard.hpp"
#include "capi/handles.hpp"

namespace {

using namespace sparlow;
using capi::given;
using capi::guarded;

const Checkpoint& content(const sparlow_checkpoint* checkpoint) { return *given(checkpoint, "checkpoint").content; }

template <typename T>
const T& at(const std::vector<T>& all, int64_t index, const char* what) {
  require(index >= 0 && index < static_cast<int64_t>(all.size()), what, " ", index, " of ", all.size());
  return all[static_cast<std::size_t>(index)];
}

void fill(const StoredTensor& tensor, sparlow_tensor_info* info) {
  sparlow_tensor_info out{};
  out.name = tensor.name.c_str();
  out.dtype = tensor.dtype.c_str();
  out.shape = tensor.shape.data();
  out.dimensions = static_cast<int64_t>(tensor.shape.size());
  out.data = tensor.data;
  out.bytes = tensor.bytes;
  capi::write_struct(out, info, "info");
}

void fill(const ConfigValue& found, sparlow_value* value) {
  sparlow_value out{};
  out.kind = static_cast<sparlow_kind>(found.kind);
  out.boolean = found.boolean;
  out.number = found.number;
  out.whole = found.whole;
  out.text = found.text == nullptr ? nullptr : found.text->c_str();
  out.items = found.items;
  capi::write_struct(out, value, "value");
}

}  // namespace

extern "C" {

sparlow_status sparlow_checkpoint_open(const char* folder, sparlow_checkpoint** checkpoint) {
  return guarded([&] {
    sparlow_checkpoint*& out = given(checkpoint, "checkpoint");
    out = nullptr;
    out = new sparlow_checkpoint{Checkpoint::open(&given(folder, "folder"))};
  });
}

sparlow_status sparlow_checkpoint_open_model(const char* folder, sparlow_checkpoint** checkpoint) {
  return guarded([&] {
    sparlow_checkpoint*& out = given(checkpoint, "checkpoint");
    out = nullptr;
    out = new sparlow_checkpoint{Checkpoint::open_model(&given(folder, "folder"))};
  });
}

void sparlow_checkpoint_close(sparlow_checkpoint* checkpoint) { delete checkpoint; }

int64_t sparlow_checkpoint_layers(const sparlow_checkpoint* checkpoint) {
  return checkpoint == nullptr ? 0 : static_cast<int64_t>(checkpoint->content->layers().size());
}

int64_t sparlow_checkpoint_tensors(const sparlow_checkpoint* checkpoint) {
  return checkpoint == nullptr ? 0 : static_cast<int64_t>(checkpoint->content->tensors().size());
}

sparlow_status sparlow_checkpoint_layer(const sparlow_checkpoint* checkpoint, int64_t index, sparlow_layer_info* info) {
  return guarded([&] {
    const StoredLayer& layer = at(content(checkpoint).layers(), index, "layer");
    sparlow_layer_info out{};
    out.name = layer.name.c_str();
    out.pattern = layer.pattern.c_str();
    out.format = static_cast<sparlow_format>(layer.shape.format);
    out.dtype = static_cast<sparlow_dtype>(layer.shape.dtype);
    out.d_out = layer.shape.d_out;
    out.d_in = layer.shape.d_in;
    out.rank = layer.shape.rank;
    out.stored = layer.shape.stored;
    out.has_bias = layer.tensors.bias != nullptr;
    capi::write_struct(out, info, "info");
  });
}

sparlow_status sparlow_checkpoint_tensor(const sparlow_checkpoint* checkpoint, int64_t index,
                                         sparlow_tensor_info* info) {
  return guarded([&] { fill(at(content(checkpoint).tensors(), index, "tensor"), info); });
}

sparlow_status sparlow_checkpoint_find_tensor(const sparlow_checkpoint* checkpoint, const char* name,
                                              sparlow_tensor_info* info) {
  return guarded([&] {
    const StoredTensor* tensor = content(checkpoint).find_tensor(&given(name, "name"));
    require(tensor != nullptr, "the checkpoint has no tensor '", name, "'");
    fill(*tensor, info);
  });
}

sparlow_status sparlow_checkpoint_value(const sparlow_checkpoint* checkpoint, const char* file, const char* pointer,
                                        sparlow_value* value) {
  return guarded([&] { fill(content(checkpoint).value(&given(file, "file"), &given(pointer, "pointer")), value); });
}
}
