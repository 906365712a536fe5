// The model on a GPU. Rows that only decode run as a CUDA graph, one for each power of two of them; the others fill up
// with rows of a slot that nobody asks for.
#include <bit>
#include <map>
#include <stdexcept>

#include "cuda_blocks.hpp"
#include "cuda_ops.hpp"
#include "cuda_support.hpp"
#include "cuda_table.hpp"
#include "model.hpp"

namespace llama {
namespace {

namespace embed = sparlow::embed;
using cuda::DeviceMemory;
using cuda::Strided;

constexpr std::int64_t kSize = 2;   // bytes of an element
constexpr int kMostGraphRows = 64;  // more rows are launched one by one
constexpr int kMostWidth = 32768;   // of the hidden state; the norms keep a row in registers

class CudaModel final : public Model {
 public:
  CudaModel(const Weights& weights, sparlow_dtype dtype, const Limits& limits, const std::string& device)
      : device_(cuda::device_number(device)),
        config_(weights.config()),
        dtype_(dtype),
        limits_(limits),
        rows_(limits.rows + limits.slots),
        context_(device, stream_.get()),
        blas_(stream_.get()),
        weights_(cuda::load_weights(context_, weights, dtype, limits.context)),
        table_(rows_, 2 * limits.slots),
        tokens_(2 * limits.slots * std::int64_t{sizeof(int)}) {
    make_buffers();
  }

  ~CudaModel() override { cudaStreamSynchronize(stream_.get()); }

  void run(std::span<const Row> rows) override {
    use_device();
    int wanted = 0;
    bool decoding = true;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      table_.set(static_cast<int>(i), rows[i]);
      if (rows[i].wanted) table_.set_wanted(wanted++, static_cast<int>(i));
      // A row for each slot: wanted ones end their slot's rows.
      decoding = decoding && rows[i].wanted;
    }
    if (decoding && wanted <= kMostGraphRows) replay(wanted);
    else enqueue(static_cast<int>(rows.size()), wanted, most_positions(rows));
    stream_.wait();
  }

  int likeliest(int wanted) override {
    const int token = tokens_.as<int>()[wanted];
    if (token < 0) throw std::runtime_error("the model's logits are not numbers");
    return token;
  }

  std::span<const float> logits(int wanted) override {
    use_device();
    const std::int64_t count = config_.vocabulary;
    std::vector<std::byte> stored(static_cast<std::size_t>(count * kSize));
    cuda::check(
        cudaMemcpy(stored.data(), logits_.data() + wanted * count * kSize, stored.size(), cudaMemcpyDeviceToHost),
        "copying logits from the GPU");
    row_.resize(static_cast<std::size_t>(count));
    convert(stored.data(), dtype_, row_.data(), SPARLOW_F32, count);
    return row_;
  }

 private:
  // The caller's thread may be another one than that of the constructor.
  void use_device() const { cuda::check(cudaSetDevice(device_), "choosing a GPU"); }

  void make_buffers() {
    const auto buffer = [&](std::int64_t width) { return DeviceMemory(rows_ * width * kSize); };
    hidden_ = buffer(config_.width), x_ = buffer(config_.width), y_ = buffer(config_.width);
    qkv_ = buffer(config_.q_width() + 2 * config_.kv_width()), attended_ = buffer(config_.q_width());
    gate_up_ = buffer(2 * std::int64_t{config_.inner}), inner_ = buffer(config_.inner);
    // One slot more, for rows that nobody asks for.
    const std::int64_t cached =
        std::int64_t{config_.layers} * (limits_.slots + 1) * limits_.context * config_.kv_width() * kSize;
    keys_ = DeviceMemory(cached), values_ = DeviceMemory(cached);
    const int wanted = 2 * limits_.slots;
    logits_ = DeviceMemory(std::int64_t{wanted} * config_.vocabulary * kSize);
    best_ = zeros(wanted * std::int64_t{sizeof(unsigned long long)});
    device_tokens_ = DeviceMemory(wanted * std::int64_t{sizeof(int)});
    const cuda::AttentionSizes sizes = cuda::attention_sizes(rows_, config_.heads, cache(0));
    scratch_ = DeviceMemory(sizes.scratch);
    counters_ = zeros(sizes.counters);
  }

  static DeviceMemory zeros(std::int64_t bytes) {
    DeviceMemory out(bytes);
    cuda::check(cudaMemset(out.data(), 0, static_cast<std::size_t>(bytes)), "cudaMemset");
    return out;
  }

  cuda::Cache cache(int layer) const {
    const std::int64_t each = std::int64_t{limits_.slots + 1} * config_.kv_width() * limits_.context * kSize;
    return {keys_.data() + layer * each, values_.data() + layer * each, config_.kv_heads, limits_.context,
            config_.head_dim};
  }

  static int most_positions(std::span<const Row> rows) {
    int most = 1;
    for (const Row& row : rows) most = std::max(most, row.position + 1);
    return most;
  }

  // The number of rows is rounded up to a power of two; the context bounds the positions.
  void replay(int wanted) {
    const int count = static_cast<int>(std::bit_ceil(static_cast<unsigned>(wanted)));
    for (int i = wanted; i < count; ++i) {
      table_.set(i, {0, limits_.slots, 0, true});
      table_.set_wanted(i, i);
    }
    cuda::Graph& graph = graphs_[count];
    if (graph.empty()) {
      enqueue(count, count, limits_.context);  // what layers and cuBLAS make at first may not be recorded
      stream_.wait();
      graph.record(stream_.get(), [&] { enqueue(count, count, limits_.context); });
    }
    graph.launch(stream_.get());
  }

  void enqueue(int count, int wanted, int most) {
    cudaStream_t stream = stream_.get();
    table_.upload(stream);
    const cuda::RowTable rows = table_.rows(count);
    cuda::embed(dtype_, rows, weights_.embedding.data(), config_.width, hidden_.data(), stream);
    const void* y = nullptr;  // what the block before adds to the hidden state
    for (std::size_t i = 0; i < weights_.blocks.size(); ++i) {
      run_block(weights_.blocks[i], rows, cache(static_cast<int>(i)), y, most);
      y = y_.data();
    }
    add_norm(count, y, weights_.final_norm);
    if (wanted == 0) return;
    cuda::gather(dtype_, wanted, table_.wanted(), x_.data(), config_.width, y_.data(), stream);
    weights_.head.forward(blas_, y_.data(), wanted, logits_.data(), stream);
    cuda::argmax(dtype_, wanted, logits_.data(), config_.vocabulary, best_.as<unsigned long long>(),
                 device_tokens_.as<int>(), stream);
    cuda::check(cudaMemcpyAsync(tokens_.as<int>(), device_tokens_.data(),
                                static_cast<std::size_t>(wanted) * sizeof(int), cudaMemcpyDeviceToHost, stream),
                "copying tokens from the GPU");
  }

  void add_norm(int count, const void* y, const DeviceMemory& weight) const {
    cuda::add_norm(dtype_, count, hidden_.data(), y, weight.data(), config_.epsilon, config_.width, x_.data(),
                   stream_.get());
  }

  void run_block(const cuda::Block& block, const cuda::RowTable& rows, const cuda::Cache& cache, const void* y,
                 int most) {
    cudaStream_t stream = stream_.get();
    const int count = rows.rows;
    add_norm(count, y, block.input_norm);
    block.qkv.forward(blas_, x_.data(), count, qkv_.data(), stream);
    const Strided q = block.qkv.output(0, count, qkv_.data()), k = block.qkv.output(1, count, qkv_.data()),
                  v = block.qkv.output(2, count, qkv_.data());
    const cuda::Angles angles{weights_.cosines.as<float>(), weights_.sines.as<float>()};
    cuda::rotate_and_store(dtype_, rows, q, k, v, angles, config_.heads, cache, stream);
    cuda::attention(dtype_, rows, q, config_.heads, cache, most, scratch_.data(), counters_.as<unsigned>(),
                    attended_.data(), stream);
    block.o.forward(blas_, attended_.data(), count, y_.data(), stream);
    add_norm(count, y_.data(), block.post_norm);
    block.gate_up.forward(blas_, x_.data(), count, gate_up_.data(), stream);
    const Strided gate = block.gate_up.output(0, count, gate_up_.data()),
                  up = block.gate_up.output(1, count, gate_up_.data());
    cuda::silu_multiply(dtype_, count, gate, up, config_.inner, inner_.data(), stream);
    block.down.forward(blas_, inner_.data(), count, y_.data(), stream);
  }

  int device_;
  Config config_;
  sparlow_dtype dtype_;
  Limits limits_;
  int rows_;  // that fit the buffers: some more than limits_ allows, to fill up a graph
  cuda::Stream stream_;
  embed::Context context_;
  cuda::Blas blas_;
  cuda::ModelWeights weights_;
  DeviceMemory hidden_, x_, y_, qkv_, attended_, gate_up_, inner_, keys_, values_, logits_, best_, device_tokens_,
      scratch_, counters_;
  cuda::Table table_;
  cuda::PinnedMemory tokens_;
  std::vector<float> row_;
  std::map<int, cuda::Graph> graphs_;  // by rows
};

void check_shape(const Config& config, sparlow_dtype dtype) {
  if (dtype == SPARLOW_F32)
    throw std::runtime_error("a GPU computes in bfloat16 or float16 here; pass dtype bfloat16 instead of float32");
  if (!cuda::has_attention(config.head_dim))
    throw std::runtime_error("config.json: head_dim is " + std::to_string(config.head_dim) +
                             "; on a GPU 32, 64, 96 and 128 are supported");
  for (const auto& [name, width] :
       {std::pair("hidden_size", config.width), std::pair("intermediate_size", config.inner)})
    if (width % 8 != 0)
      throw std::runtime_error(std::string("config.json: on a GPU ") + name + " must be a multiple of 8");
  if (config.width > kMostWidth)
    throw std::runtime_error("config.json: on a GPU hidden_size must be at most " + std::to_string(kMostWidth));
}

}  // namespace

std::unique_ptr<Model> make_cuda_model(const Weights& weights, sparlow_dtype dtype, const Limits& limits,
                                       const std::string& device) {
  check_shape(weights.config(), dtype);
  cuda::check(cudaSetDevice(cuda::device_number(device)), "choosing a GPU");
  return std::make_unique<CudaModel>(weights, dtype, limits, device);
}

}  // namespace llama
