#include "config.hpp"

#include <limits>
#include <stdexcept>

namespace llama {
namespace {

using sparlow::embed::Checkpoint;

[[noreturn]] void refuse(const std::string& key, const std::string& what) {
  throw std::runtime_error("config.json: " + key + " " + what);
}

class Reader {
 public:
  explicit Reader(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  bool has(const std::string& key) const {
    const sparlow_kind kind = at(key).kind;
    return kind != SPARLOW_ABSENT && kind != SPARLOW_NULL;
  }
  int size(const std::string& key) const {
    const sparlow_value value = at(key);
    if (value.whole < 1 || value.whole > std::numeric_limits<int>::max()) refuse(key, "must be a positive number");
    return static_cast<int>(value.whole);
  }
  int size(const std::string& key, int otherwise) const { return has(key) ? size(key) : otherwise; }
  double number(const std::string& key) const {
    const sparlow_value value = at(key);
    if (value.kind != SPARLOW_NUMBER || !(value.number > 0)) refuse(key, "must be a number above 0");
    return value.number;
  }
  bool flag(const std::string& key) const {
    if (!has(key)) return false;
    if (at(key).kind != SPARLOW_BOOLEAN) refuse(key, "must be true or false");
    return at(key).boolean != 0;
  }
  std::string text(const std::string& key) const {
    const sparlow_value value = at(key);
    if (value.kind != SPARLOW_STRING) refuse(key, "must be a string");
    return value.text;
  }

 private:
  sparlow_value at(const std::string& key) const { return checkpoint_.value("/" + key); }
  const Checkpoint& checkpoint_;
};

void check_family(const Reader& reader) {
  const std::string type = reader.text("model_type");
  if (type != "llama" && type != "mistral" && type != "qwen2")
    refuse("model_type", "is '" + type + "'; this program runs llama, mistral and qwen2");
  if (const std::string act = reader.text("hidden_act"); act != "silu")
    refuse("hidden_act", "is '" + act + "', only silu is supported");
  const bool sliding = type == "qwen2" ? reader.flag("use_sliding_window") : reader.has("sliding_window");
  if (sliding) refuse("sliding_window", "is set, which is not supported");
}

// transformers 5 says rope_parameters, older versions rope_theta and rope_scaling.
Rope read_rope(const Reader& reader) {
  const std::string group = reader.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  Rope rope;
  for (const std::string& key : {std::string("rope_theta"), group + "/rope_theta"})
    if (reader.has(key)) rope.theta = reader.number(key);
  if (!reader.has(group)) return rope;
  const std::string key = group + (reader.has(group + "/rope_type") ? "/rope_type" : "/type");
  const std::string type = reader.has(key) ? reader.text(key) : "default";
  if (type == "default") return rope;
  if (type != "linear" && type != "llama3") refuse(key, "is '" + type + "'; default, linear and llama3 are supported");
  rope.factor = reader.number(group + "/factor");
  rope.llama3 = type == "llama3";
  if (!rope.llama3) return rope;
  rope.low_frequency = reader.number(group + "/low_freq_factor");
  rope.high_frequency = reader.number(group + "/high_freq_factor");
  rope.original_context = reader.number(group + "/original_max_position_embeddings");
  return rope;
}

// One token or several; generation_config.json, which transformers generates by, comes first.
std::vector<int> read_ends(const Checkpoint& checkpoint) {
  for (const char* file : {"generation_config.json", "config.json"}) {
    const sparlow_value value = checkpoint.value("/eos_token_id", file);
    if (value.kind == SPARLOW_ABSENT || value.kind == SPARLOW_NULL) continue;
    std::vector<int> ends;
    if (value.kind == SPARLOW_NUMBER) ends.push_back(static_cast<int>(value.whole));
    for (std::int64_t i = 0; value.kind == SPARLOW_ARRAY && i < value.items; ++i)
      ends.push_back(static_cast<int>(checkpoint.value("/eos_token_id/" + std::to_string(i), file).whole));
    return ends;
  }
  return {};
}

}  // namespace

Config read_config(const Checkpoint& checkpoint) {
  const Reader reader(checkpoint);
  check_family(reader);
  Config config;
  config.vocabulary = reader.size("vocab_size");
  config.width = reader.size("hidden_size");
  config.inner = reader.size("intermediate_size");
  config.layers = reader.size("num_hidden_layers");
  config.heads = reader.size("num_attention_heads");
  config.kv_heads = reader.size("num_key_value_heads", config.heads);
  config.head_dim = reader.size("head_dim", config.width / config.heads);
  config.context = reader.size("max_position_embeddings");
  config.epsilon = static_cast<float>(reader.number("rms_norm_eps"));
  config.tied = reader.flag("tie_word_embeddings");
  config.rope = read_rope(reader);
  config.ends = read_ends(checkpoint);
  if (config.head_dim % 2 != 0) refuse("head_dim", "must be even");
  if (config.heads % config.kv_heads != 0) refuse("num_attention_heads", "must be a multiple of num_key_value_heads");
  return config;
}

}  // namespace llama
