#include "sparlow/checkpoint.hpp"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "io/config.hpp"
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
  MappedCheckpoint(const std::string& folder, const std::vector<io::ShardRecord>& shards) : config_(folder) {
    for (const io::ShardRecord& record : shards) map(folder, record);
    sort();
    layers_ = io::read_layer_table(folder + "/config.json", config_.config());
    for (StoredLayer& layer : layers_) fill(layer);
  }

  MappedCheckpoint(const std::string& folder, io::ConfigFiles files, const io::PlainShards& shards)
      : config_(std::move(files)) {
    for (const std::string& name : shards.names) map(folder, name);
    sort();
    for (const std::string& name : shards.tensors)
      require(find_tensor(name) != nullptr, "tensor '", name, "' of model.safetensors.index.json is in no shard");
  }

  const std::vector<StoredLayer>& layers() const override { return layers_; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }
  ConfigValue value(std::string_view file, std::string_view pointer) const override {
    return config_.value(file, pointer);
  }

 private:
  void map(const std::string& folder, const io::ShardRecord& record) {
    const io::MappedFile& file = files_.emplace_back(folder + "/" + record.name);
    require(file.size() == record.bytes, "shard ", record.name, " has ", file.size(), " bytes, ", record.bytes,
            " were written: truncated or altered");
    read(record.name, file);
  }
  void map(const std::string& folder, const std::string& name) { read(name, files_.emplace_back(folder + "/" + name)); }

  void read(const std::string& name, const io::MappedFile& file) {
    std::vector<StoredTensor> found = read_safetensors(name, file.data(), file.size());
    std::move(found.begin(), found.end(), std::back_inserter(tensors_));
  }

  void sort() {
    std::sort(tensors_.begin(), tensors_.end(), by_name);
    const auto twice = std::adjacent_find(tensors_.begin(), tensors_.end(),
                                          [](const auto& a, const auto& b) { return a.name == b.name; });
    require(twice == tensors_.end(), "tensor '", twice == tensors_.end() ? "" : twice->name, "' is in two shards");
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

  io::ConfigFiles config_;
  std::vector<io::MappedFile> files_;
  std::vector<StoredTensor> tensors_;
  std::vector<StoredLayer> layers_;
};

}  // namespace

std::shared_ptr<const Checkpoint> Checkpoint::open(const std::string& folder) {
  return std::make_shared<MappedCheckpoint>(folder, io::read_manifest(folder));
}

std::shared_ptr<const Checkpoint> Checkpoint::open_model(const std::string& folder) {
  if (::access(folder.c_str(), F_OK) != 0) fail(ErrorCode::io, "no model folder at ", folder);
  io::ConfigFiles config(folder);
  if (io::is_compressed(config.config())) return open(folder);
  require(config.value("config.json", "/quantization_config").kind == ConfigValue::Kind::absent, folder,
          "/config.json has a quantization_config that is not sparlow's");
  return std::make_shared<MappedCheckpoint>(folder, std::move(config), io::read_plain_shards(folder));
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
