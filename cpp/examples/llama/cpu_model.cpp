// The model on the CPU: every linear layer, dense ones too, is a layer of sparlow.
#include <cstring>
#include <stdexcept>

#include "cpu_ops.hpp"
#include "model.hpp"
#include "rope.hpp"
#include "sampler.hpp"

namespace llama {
namespace {

namespace embed = sparlow::embed;

class CpuModel final : public Model {
 public:
  CpuModel(const Weights& weights, sparlow_dtype dtype, const Limits& limits)
      : config_(weights.config()), dtype_(dtype), size_(size_of(dtype)), limits_(limits) {
    if (config_.head_dim > cpu::kMostDim)
      throw std::runtime_error("config.json: head_dim is " + std::to_string(config_.head_dim) + ", at most " +
                               std::to_string(cpu::kMostDim) + " are supported");
    const Tensor table = weights.embedding();
    table_ = static_cast<const std::byte*>(arena_.as(table.data, table.dtype, dtype, table.count));
    for (int i = 0; i < config_.layers; ++i) blocks_.push_back(block(weights, "model.layers." + std::to_string(i)));
    final_norm_ = norm(weights, "model.norm.weight");
    head_ = layer(weights.head());
    angles_ = angle_table(config_, limits_.context, dtype);
    make_buffers();
  }

  void run(std::span<const Row> rows) override {
    rows_ = rows;
    embed_rows();
    const std::byte* y = nullptr;  // what the block before adds to the hidden state
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      const Block& block = blocks_[i];
      add_norm(y, block.input_norm);
      forward(*block.q, x_, q_), forward(*block.k, x_, k_), forward(*block.v, x_, v_);
      attend(static_cast<int>(i));
      forward(*block.o, q_, x_);
      add_norm(at(x_), block.post_norm);
      forward(*block.gate, x_, gate_), forward(*block.up, x_, up_);
      each_row(config_.inner, [&](std::int64_t r) {
        const std::int64_t offset = r * config_.inner * size_;
        cpu::silu_multiply(dtype_, at(gate_) + offset, at(up_) + offset, config_.inner);
      });
      forward(*block.down, gate_, y_);
      y = at(y_);
    }
    add_norm(y, final_norm_);
    run_head();
  }

  int likeliest(int wanted) override { return llama::likeliest(logits(wanted)); }

  std::span<const float> logits(int wanted) override {
    const auto count = static_cast<std::size_t>(config_.vocabulary);
    return {reinterpret_cast<const float*>(at(logits_)) + static_cast<std::size_t>(wanted) * count, count};
  }

 private:
  using LayerPointer = std::unique_ptr<embed::Layer>;
  using Buffer = std::unique_ptr<embed::Workspace>;
  struct Block {
    LayerPointer q, k, v, o, gate, up, down;
    const void *input_norm, *post_norm;
  };

  static std::byte* at(const Buffer& buffer) { return static_cast<std::byte*>(buffer->data()); }

  LayerPointer layer(LinearWeights linear) {
    arena_.as(linear, dtype_);
    try {
      return std::make_unique<embed::Layer>(context_, linear.info, linear.tensors);
    } catch (const embed::Failure& failure) {
      throw std::runtime_error("layer '" + linear.name + "': " + failure.what());
    }
  }

  const void* norm(const Weights& weights, const std::string& name) {
    const Tensor tensor = weights.tensor(name, {config_.width});
    return arena_.as(tensor.data, tensor.dtype, dtype_, tensor.count);
  }

  Block block(const Weights& weights, const std::string& prefix) {
    const std::string attention = prefix + ".self_attn.", mlp = prefix + ".mlp.";
    const auto linear = [&](const std::string& name, int d_out, int d_in) {
      return layer(weights.linear(name, d_out, d_in));
    };
    return {linear(attention + "q_proj", config_.q_width(), config_.width),
            linear(attention + "k_proj", config_.kv_width(), config_.width),
            linear(attention + "v_proj", config_.kv_width(), config_.width),
            linear(attention + "o_proj", config_.width, config_.q_width()),
            linear(mlp + "gate_proj", config_.inner, config_.width),
            linear(mlp + "up_proj", config_.inner, config_.width),
            linear(mlp + "down_proj", config_.width, config_.inner),
            norm(weights, prefix + ".input_layernorm.weight"),
            norm(weights, prefix + ".post_attention_layernorm.weight")};
  }

  void make_buffers() {
    const auto buffer = [&](std::int64_t width) {
      return std::make_unique<embed::Workspace>(limits_.rows * width * size_);
    };
    hidden_ = buffer(config_.width), y_ = buffer(config_.width);
    x_ = buffer(config_.width), q_ = buffer(config_.q_width());
    k_ = buffer(config_.kv_width()), v_ = buffer(config_.kv_width());
    gate_ = buffer(config_.inner), up_ = buffer(config_.inner);
    const std::int64_t cached = std::int64_t{config_.layers} * limits_.slots * limits_.context * config_.kv_width();
    keys_ = std::make_unique<embed::Workspace>(cached * size_);
    values_ = std::make_unique<embed::Workspace>(cached * size_);
    const std::int64_t logits = std::int64_t{limits_.slots} * config_.vocabulary;
    stored_logits_ = std::make_unique<embed::Workspace>(logits * size_);
    logits_ = std::make_unique<embed::Workspace>(logits * 4);
    std::int64_t most = head_->workspace_bytes(limits_.slots);
    for (const Block& b : blocks_)
      for (const LayerPointer* layer : {&b.q, &b.k, &b.v, &b.o, &b.gate, &b.up, &b.down})
        most = std::max(most, (*layer)->workspace_bytes(limits_.rows));
    workspace_ = std::make_unique<embed::Workspace>(most);
  }

  std::int64_t count() const { return static_cast<std::int64_t>(rows_.size()); }

  // body(r) for all rows; several at a time where they make enough work of `width` elements each.
  template <class Body>
  void each_row(std::int64_t width, Body&& body) const {
    embed::parallel_for(count(), std::max<std::int64_t>(1, 16384 / width), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) body(r);
    });
  }

  void forward(const embed::Layer& layer, const Buffer& x, const Buffer& y) const {
    layer.forward(x->data(), y->data(), count(), *workspace_);
  }

  void embed_rows() {
    const std::int64_t bytes = config_.width * size_;
    for (std::int64_t r = 0; r < count(); ++r)
      std::memcpy(at(hidden_) + r * bytes, table_ + rows_[static_cast<std::size_t>(r)].token * bytes,
                  static_cast<std::size_t>(bytes));
  }

  void add_norm(const std::byte* y, const void* weight) {
    each_row(config_.width, [&](std::int64_t r) {
      const std::int64_t offset = r * config_.width * size_;
      cpu::add_norm(dtype_, at(hidden_) + offset, y == nullptr ? nullptr : y + offset, weight, config_.epsilon,
                    at(x_) + offset, config_.width);
    });
  }

  // Where the cache of a layer, slot and head begins.
  std::int64_t cached(int layer, int slot, int head) const {
    const std::int64_t heads = (std::int64_t{layer} * limits_.slots + slot) * config_.kv_heads + head;
    return heads * limits_.context * config_.head_dim * size_;
  }

  // Turns q and k and puts k and v into the cache.
  void store(int layer, std::int64_t r) {
    const Row& row = rows_[static_cast<std::size_t>(r)];
    const int dim = config_.head_dim;
    const std::int64_t angle = std::int64_t{row.position} * (dim / 2), bytes = dim * size_;
    std::byte *q = at(q_) + r * config_.q_width() * size_, *k = at(k_) + r * config_.kv_width() * size_;
    const std::byte* v = at(v_) + r * config_.kv_width() * size_;
    cpu::rotate(dtype_, q, &angles_.cosines[angle], &angles_.sines[angle], config_.heads, dim);
    cpu::rotate(dtype_, k, &angles_.cosines[angle], &angles_.sines[angle], config_.kv_heads, dim);
    for (int head = 0; head < config_.kv_heads; ++head) {
      const std::int64_t to = cached(layer, row.slot, head) + row.position * bytes;
      std::memcpy(at(keys_) + to, k + head * bytes, static_cast<std::size_t>(bytes));
      std::memcpy(at(values_) + to, v + head * bytes, static_cast<std::size_t>(bytes));
    }
  }

  // The result takes the place of q.
  void attend(int layer) {
    each_row(config_.q_width(), [&](std::int64_t r) { store(layer, r); });
    const int group = config_.heads / config_.kv_heads, dim = config_.head_dim;
    std::int64_t work = 1;
    for (const Row& row : rows_) work += row.position;
    const std::int64_t heads = count() * config_.heads, each = std::max<std::int64_t>(1, work / count() * dim);
    embed::parallel_for(heads, std::max<std::int64_t>(1, 32768 / each), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const Row& row = rows_[static_cast<std::size_t>(i / config_.heads)];
        const std::int64_t from = cached(layer, row.slot, static_cast<int>(i % config_.heads) / group);
        std::byte* q = at(q_) + i * dim * size_;
        cpu::attend(dtype_, q, at(keys_) + from, at(values_) + from, row.position + 1, dim, q);
      }
    });
  }

  void run_head() {
    const std::int64_t bytes = config_.width * size_;
    std::int64_t wanted = 0;
    for (std::int64_t r = 0; r < count(); ++r)
      if (rows_[static_cast<std::size_t>(r)].wanted) std::memmove(at(x_) + wanted++ * bytes, at(x_) + r * bytes, bytes);
    head_->forward(x_->data(), stored_logits_->data(), wanted, *workspace_);
    embed::parallel_for(wanted * config_.vocabulary, 1 << 15, [&](std::int64_t begin, std::int64_t end) {
      convert(at(stored_logits_) + begin * size_, dtype_, at(logits_) + begin * 4, SPARLOW_F32, end - begin);
    });
  }

  Config config_;
  sparlow_dtype dtype_;
  std::int64_t size_;
  Limits limits_;
  Arena arena_;
  embed::Context context_{"cpu"};
  const std::byte* table_;
  std::vector<Block> blocks_;
  const void* final_norm_;
  LayerPointer head_;
  AngleTable angles_;
  Buffer hidden_, x_, y_, q_, k_, v_, gate_, up_, keys_, values_, stored_logits_, logits_, workspace_;
  std::span<const Row> rows_;
};

}  // namespace

std::unique_ptr<Model> make_cpu_model(const Weights& weights, sparlow_dtype dtype, const Limits& limits) {
  return std::make_unique<CpuModel>(weights, dtype, limits);
}

}  // namespace llama
