#include "cuda_blocks.hpp"

#include "rope.hpp"

namespace llama::cuda {
namespace {

DeviceMemory upload_norm(const Weights& weights, const std::string& name, sparlow_dtype dtype) {
  const Tensor tensor = weights.tensor(name, {weights.config().width});
  return upload(tensor.data, tensor.dtype, dtype, tensor.count);
}

DeviceMemory upload_floats(const std::vector<float>& values) {
  const std::size_t bytes = values.size() * sizeof(float);
  DeviceMemory out(static_cast<std::int64_t>(bytes));
  check(cudaMemcpy(out.data(), values.data(), bytes, cudaMemcpyHostToDevice), "copying angles to the GPU");
  return out;
}

Block load_block(const sparlow::embed::Context& context, const Weights& weights, sparlow_dtype dtype, int index) {
  const Config& config = weights.config();
  const std::string prefix = "model.layers." + std::to_string(index);
  const auto linears = [&](std::initializer_list<std::pair<const char*, int>> layers, int d_in) {
    std::vector<LinearWeights> out;
    for (const auto& [name, d_out] : layers) out.push_back(weights.linear(prefix + name, d_out, d_in));
    return Linears(context, std::move(out), dtype);
  };
  const int q = config.q_width(), kv = config.kv_width();
  return {linears({{".self_attn.q_proj", q}, {".self_attn.k_proj", kv}, {".self_attn.v_proj", kv}}, config.width),
          linears({{".self_attn.o_proj", config.width}}, q),
          linears({{".mlp.gate_proj", config.inner}, {".mlp.up_proj", config.inner}}, config.width),
          linears({{".mlp.down_proj", config.width}}, config.inner),
          upload_norm(weights, prefix + ".input_layernorm.weight", dtype),
          upload_norm(weights, prefix + ".post_attention_layernorm.weight", dtype)};
}

}  // namespace

ModelWeights load_weights(const sparlow::embed::Context& context, const Weights& weights, sparlow_dtype dtype,
                          int positions) {
  const Tensor table = weights.embedding();
  const AngleTable angles = angle_table(weights.config(), positions, dtype);
  std::vector<Block> blocks;
  for (int i = 0; i < weights.config().layers; ++i) blocks.push_back(load_block(context, weights, dtype, i));
  return {upload(table.data, table.dtype, dtype, table.count),
          upload_floats(angles.cosines),
          upload_floats(angles.sines),
          upload_norm(weights, "model.norm.weight", dtype),
          std::move(blocks),
          Linears(context, {weights.head()}, dtype)};
}

}  // namespace llama::cuda
