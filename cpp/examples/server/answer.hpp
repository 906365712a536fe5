// One request's answer as it grows: tokens in, text and token ids out.
#pragma once

#include <optional>

#include "server/completion.hpp"
#include "server/replies.hpp"
#include "server/text_stream.hpp"

namespace serve {

class Answer {
 public:
  Answer(const Completion& completion, const Model& model);

  void take(const Event& event);
  // Nothing more comes: it is complete, or there is an error.
  bool over() const { return finish_reason_ || error_; }
  const std::optional<ApiError>& error() const { return error_; }

  // What has come since the last call.
  Piece next();
  const Label& label() const { return label_; }
  Json usage() const { return usage_json(prompt_, count_); }

 private:
  void take_token(int token, bool last);

  const Model& model_;
  Label label_;
  TextStream text_;
  Piece piece_;
  std::size_t prompt_, most_, count_ = 0;  // tokens
  const char* finish_reason_ = nullptr;
  std::optional<ApiError> error_;
};

}  // namespace serve
