#include "sparlow/checkpoint.hpp"

#include <algorithm>
#include <utility>

#include "io/folder.hpp"
#include "io/mapped_file.hpp"
#include "sparlow/error.hpp"

namespace sparlow {
namespace {

bool by_name(const StoredTensor& a, const StoredTensor& b) { return a.name < b.name; }

DType dtype_of(const StoredTensor& tensor) {
  if (tensor.dtype == "BF16") return DType::bf16;
  if (tensor.dtype == "F16") return DType::f16;
  if (tensor.dtype == "F32") return DType::f32;
  fail(ErrorCode::invalid_argument, "tensor '", tensor.name, "' is ", tensor.dtype,
       ", the layer table says BF16/F16/F32");
}

class MappedCheckpoint final : public Checkpoint {
 public:
  explicit MappedCheckpoint(const std::string& folder) {
    for (const io::ShardRecord& record : io::read_manifest(folder)) map(folder, record);
    std::sort(tensors_.begin(), tensors_.end(), by_name);
    const auto twice = std::adjacent_find(tensors_.begin(), tensors_.end(),
                                          [](const auto& a, const auto& b) { return a.name == b.name; });
    require(twice == tensors_.end(), "tensor '", twice == tensors_.end() ? "" : twice->name, "' is in two shards");
    layers_ = io::read_layer_table(folder);
    for (StoredLayer& layer : layers_) fill(layer);
  }

  const std::vector<StoredLayer>& layers() const override { return layers_; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }

 private:
  void map(const std::string& folder, const io::ShardRecord& record) {
    io::MappedFile& file = files_.emplace_back(folder + "/" + record.name);
    require(file.size() == record.bytes, "shard ", record.name, " has ", file.size(), " bytes, ", record.bytes,
            " were written: truncated or altered");
    std::vector<StoredTensor> found = read_safetensors(record.name, file.data(), file.size());
    std::move(found.begin(), found.end(), std::back_inserter(tensors_));
  }

  const StoredTensor& part(const StoredLayer& layer, const char* key, std::vector<Index> shape) const {
    const std::string name = layer.name + "." + key;
    const StoredTensor* tensor = find_tensor(name);
    require(tensor != nullptr, "tensor '", name, "' of the layer table is in no shard");
    require(tensor->shape == shape, "tensor '", name, "' does not have the shape that the layer table says");
    return *tensor;
  }

  // The tensor of that part, of the layer's own type; the first one decides which type that is.
  const void* values(StoredLayer& layer, const char* key, std::vector<Index> shape, bool first = false) const {
    const StoredTensor& tensor = part(layer, key, std::move(shape));
    const DType dtype = dtype_of(tensor);
    if (first) layer.shape.dtype = dtype;
    require(dtype == layer.shape.dtype, "layer '", layer.name, "' mixes types: ", key, " is ", tensor.dtype);
    return tensor.data;
  }

  void fill(StoredLayer& layer) const {
    const LayerShape& shape = layer.shape;
    std::vector<Index> packed = {shape.d_out, shape.format == Format::nm24 ? shape.d_in / 2 : shape.d_in};
    if (shape.format == Format::bitmap) packed = {shape.stored};
    layer.tensors.values = values(layer, "weight_packed", std::move(packed), true);
    layer.tensors.u = values(layer, "low_rank_u", {shape.d_out, shape.rank});
    layer.tensors.v = values(layer, "low_rank_v", {shape.rank, shape.d_in});
    if (find_tensor(layer.name + ".bias") != nullptr) layer.tensors.bias = values(layer, "bias", {shape.d_out});
    if (shape.format == Format::dense) return;
    const StoredTensor& meta = part(layer, "weight_meta", {shape.d_out, (shape.d_in + 7) / 8});
    require(meta.dtype == "U8", "tensor '", meta.name, "' is ", meta.dtype, ", the layer table says U8");
    layer.tensors.meta = static_cast<const std::uint8_t*>(meta.data);
  }

  std::vector<io::MappedFile> files_;
  std::vector<StoredTensor> tensors_;
  std::vector<StoredLayer> layers_;
};

}  // namespace

std::shared_ptr<const Checkpoint> Checkpoint::open(const std::string& folder) {
  return std::make_shared<MappedCheckpoint>(folder);
}

const StoredTensor* Checkpoint::find_tensor(std::string_view name) const {
  const auto& all = tensors();
  const auto found = std::lower_bound(
      all.begin(), all.end(), name, [](const StoredTensor& tensor, std::string_view key) { return tensor.name < key; });
  return found == all.end() || found->name != name ? nullptr : &*found;
}

const StoredLayer& Checkpoint::layer(std::string_view name) const {
  for (const StoredLayer& layer : layers())
    if (layer.name == name) return layer;
  fail(ErrorCode::invalid_argument, "the checkpoint has no compressed layer '", name, "'; it has ", layers().size(),
       layers().empty() ? "" : ", the first is '" + layers().front().name + "'");
}

}  // namespace sparlow
