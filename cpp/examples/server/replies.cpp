#include "server/replies.hpp"

#include <chrono>
#include <cstdio>
#include <random>

namespace serve {

Label make_label(const Model& model) {
  static thread_local std::mt19937_64 random(std::random_device{}());
  char id[32];
  std::snprintf(id, sizeof id, "cmpl-%016llx", static_cast<unsigned long long>(random()));
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return {id, std::chrono::duration_cast<std::chrono::seconds>(now).count(), model.name};
}

Json completion_json(const Label& label, const Piece& piece) {
  const Json choice = {{"index", 0},
                       {"text", piece.text},
                       {"token_ids", piece.tokens},
                       {"logprobs", nullptr},
                       {"finish_reason", piece.finish_reason ? Json(piece.finish_reason) : Json(nullptr)}};
  return {{"id", label.id},
          {"object", "text_completion"},
          {"created", label.created},
          {"model", label.model},
          {"choices", Json::array({choice})}};
}

Json usage_json(std::size_t prompt, std::size_t answer) {
  return {{"prompt_tokens", prompt}, {"completion_tokens", answer}, {"total_tokens", prompt + answer}};
}

Json model_json(const Model& model) {
  return {{"id", model.name},
          {"object", "model"},
          {"created", model.created},
          {"owned_by", "sparlow"},
          {"max_model_len", model.context}};
}

Json models_json(const Model& model) { return {{"object", "list"}, {"data", Json::array({model_json(model)})}}; }

std::string sse(const std::string& data) { return "data: " + data + "\n\n"; }

}  // namespace serve
