#include "weights.hpp"

#include <map>
#include <stdexcept>

namespace llama {
namespace {

namespace embed = sparlow::embed;

std::string text_of(const std::int64_t* shape, std::size_t count) {
  std::string out = "[";
  for (std::size_t i = 0; i < count; ++i) out += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return out + "]";
}

class Folder final : public Weights {
 public:
  explicit Folder(const std::string& folder)
      : checkpoint_(embed::Checkpoint::model(folder)), config_(read_config(checkpoint_)) {
    for (std::int64_t i = 0; i < checkpoint_.tensors(); ++i) {
      const sparlow_tensor_info info = checkpoint_.tensor(i);
      tensors_.emplace(info.name, info);
    }
    for (std::int64_t i = 0; i < checkpoint_.layers(); ++i) {
      const sparlow_layer_info info = checkpoint_.layer(i);
      layers_.emplace(info.name, info);
    }
  }

  const Config& config() const override { return config_; }
  sparlow_dtype dtype() const override { return embedding().dtype; }

  Tensor tensor(const std::string& name, const std::vector<std::int64_t>& shape) const override {
    const sparlow_tensor_info* info = find(name);
    if (info == nullptr) throw std::runtime_error("the folder has no tensor '" + name + "'");
    const std::vector<std::int64_t> found(info->shape, info->shape + info->dimensions);
    if (found != shape)
      throw std::runtime_error("tensor '" + name + "' is " + text_of(found.data(), found.size()) +
                               ", config.json wants " + text_of(shape.data(), shape.size()));
    Tensor out{info->data, dtype_of_tensor(name, info->dtype), 1};
    for (const std::int64_t extent : shape) out.count *= extent;
    return out;
  }

  LinearWeights linear(const std::string& name, std::int64_t d_out, std::int64_t d_in) const override {
    const auto layer = layers_.find(name);
    LinearWeights out = layer == layers_.end() ? dense(name, d_out, d_in) : compressed(name, layer->second);
    if (out.info.d_out != d_out || out.info.d_in != d_in) {
      const std::int64_t found[] = {out.info.d_out, out.info.d_in}, wanted[] = {d_out, d_in};
      throw std::runtime_error("layer '" + name + "' is " + text_of(found, 2) + ", config.json wants " +
                               text_of(wanted, 2));
    }
    if (find(name + ".bias") != nullptr) {
      const Tensor bias = tensor(name + ".bias", {d_out});
      if (bias.dtype != out.info.dtype) throw std::runtime_error("layer '" + name + "' has a bias of another type");
      out.tensors.bias = bias.data;
      out.info.has_bias = 1;
    }
    return out;
  }

 private:
  const sparlow_tensor_info* find(const std::string& name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
  }
  const void* data(const std::string& name) const {
    const sparlow_tensor_info* info = find(name);
    return info == nullptr ? nullptr : info->data;
  }

  LinearWeights compressed(const std::string& name, const sparlow_layer_info& info) const {
    if (find(name + ".sign_bits") != nullptr)
      throw std::runtime_error("layer '" + name + "' has a signed term, which this program does not run");
    LinearWeights out{name, info, embed::make<sparlow_layer_tensors>(), true};
    out.tensors.values = data(name + ".weight_packed");
    out.tensors.meta = static_cast<const std::uint8_t*>(data(name + ".weight_meta"));
    out.tensors.u = data(name + ".low_rank_u");
    out.tensors.v = data(name + ".low_rank_v");
    return out;
  }

  LinearWeights dense(const std::string& name, std::int64_t d_out, std::int64_t d_in) const {
    const Tensor w = tensor(name + ".weight", {d_out, d_in});
    LinearWeights out{name, embed::make<sparlow_layer_info>(), embed::make<sparlow_layer_tensors>(), false};
    out.info.format = SPARLOW_DENSE;
    out.info.dtype = w.dtype;
    out.info.d_out = d_out;
    out.info.d_in = d_in;
    out.info.stored = w.count;
    out.tensors.values = w.data;
    return out;
  }

  embed::Checkpoint checkpoint_;
  Config config_;
  std::map<std::string, sparlow_tensor_info> tensors_;
  std::map<std::string, sparlow_layer_info> layers_;
};

}  // namespace

Tensor Weights::embedding() const { return tensor("model.embed_tokens.weight", {config().vocabulary, config().width}); }

LinearWeights Weights::head() const {
  if (!config().tied) return linear("lm_head", config().vocabulary, config().width);
  return linear("model.embed_tokens", config().vocabulary, config().width);
}

std::unique_ptr<Weights> open_folder(const std::string& folder) { return std::make_unique<Folder>(folder); }

const void* Arena::as(const void* data, sparlow_dtype from, sparlow_dtype to, std::int64_t count) {
  if (from == to || data == nullptr) return data;
  auto& block = blocks_[{data, to}];
  if (block != nullptr) return block.get();
  block = std::make_unique_for_overwrite<std::byte[]>(count * size_of(to));
  const std::int64_t from_size = size_of(from), to_size = size_of(to);
  embed::parallel_for(count, 1 << 20, [&](std::int64_t begin, std::int64_t end) {
    convert(static_cast<const std::byte*>(data) + begin * from_size, from, block.get() + begin * to_size, to,
            end - begin);
  });
  return block.get();
}

void Arena::as(LinearWeights& linear, sparlow_dtype to) {
  sparlow_layer_tensors& tensors = linear.tensors;
  const sparlow_layer_info& info = linear.info;
  tensors.values = as(tensors.values, info.dtype, to, info.stored);
  tensors.u = as(tensors.u, info.dtype, to, info.d_out * info.rank);
  tensors.v = as(tensors.v, info.dtype, to, info.rank * info.d_in);
  tensors.bias = as(tensors.bias, info.dtype, to, info.d_out);
  linear.info.dtype = to;
}

}  // namespace llama
