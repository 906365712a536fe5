#include "shapes.hpp"

#include <algorithm>
#include <array>

#include "options.hpp"
#include "sparlow/error.hpp"
#include "sparlow/solvers.hpp"

namespace sparlow::bench {
namespace {

struct Model {
  const char* name;
  Index blocks, hidden, intermediate, queries, keys;  // queries: heads times their size; keys: the same of k and v
};
// From the config.json of each model.
constexpr std::array<Model, 10> kModels{{
    {"llama-3-8b", 32, 4096, 14336, 4096, 1024},
    {"llama-3-70b", 80, 8192, 28672, 8192, 1024},
    {"llama-3.2-1b", 16, 2048, 8192, 2048, 512},
    {"llama-3.2-3b", 28, 3072, 8192, 3072, 1024},
    {"mistral-7b", 32, 4096, 14336, 4096, 1024},
    {"qwen2.5-1.5b", 28, 1536, 8960, 1536, 256},
    {"qwen2.5-7b", 28, 3584, 18944, 3584, 512},
    {"qwen3-8b", 36, 4096, 12288, 4096, 1024},
    {"qwen3-32b", 64, 5120, 25600, 8192, 1024},
    {"smollm2-135m", 30, 576, 1536, 576, 192},
}};
constexpr Index kLongestSide = 1 << 20;

}  // namespace

std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for (const Model& model : kModels) names.emplace_back(model.name);
  return names;
}

std::vector<LayerSize> model_layers(const std::string& model) {
  const auto* found = std::find_if(kModels.begin(), kModels.end(), [&](const Model& m) { return m.name == model; });
  if (found == kModels.end())
    fail(ErrorCode::invalid_argument, "unknown model '", model, "'; did you mean '", nearest_name(model, model_names()),
         "'? --help lists them; other layers: --shapes D_OUTxD_IN");
  const Model& m = *found;
  return {{"q_proj", m.queries, m.hidden, m.blocks},
          {"k_proj", m.keys, m.hidden, m.blocks},
          {"v_proj", m.keys, m.hidden, m.blocks},
          {"o_proj", m.hidden, m.queries, m.blocks},
          {"gate_proj", m.intermediate, m.hidden, m.blocks},
          {"up_proj", m.intermediate, m.hidden, m.blocks},
          {"down_proj", m.hidden, m.intermediate, m.blocks}};
}

LayerSize parse_shape(const std::string& text) {
  const std::size_t by = text.find('x');
  require(by != std::string::npos, "--shapes: '", text, "' is not D_OUTxD_IN, such as 4096x14336");
  return {text, whole_number(text.substr(0, by), "--shapes, d_out of " + text, 1, kLongestSide),
          whole_number(text.substr(by + 1), "--shapes, d_in of " + text, 1, kLongestSide)};
}

std::vector<LayerSize> distinct(const std::vector<LayerSize>& layers) {
  std::vector<LayerSize> out;
  for (const LayerSize& layer : layers) {
    const auto same = [&](const LayerSize& other) { return other.d_out == layer.d_out && other.d_in == layer.d_in; };
    const auto found = std::find_if(out.begin(), out.end(), same);
    if (found == out.end()) {
      out.push_back(layer);
      continue;
    }
    found->name += "+" + layer.name;
    found->count += layer.count;
  }
  return out;
}

}  // namespace sparlow::bench
