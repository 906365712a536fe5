#include "server/answer.hpp"

#include <algorithm>
#include <utility>

namespace serve {

Answer::Answer(const Completion& completion, const Model& model)
    : model_(model),
      label_(make_label(model)),
      text_(completion.stop),
      prompt_(completion.job.prompt.size()),
      most_(std::min<std::size_t>(completion.job.max_tokens, model.context - prompt_)) {}

void Answer::take(const Event& event) {
  if (over()) return;  // steps that were under way when a stop text came
  switch (event.kind) {
    case Event::Kind::token: return take_token(event.token, event.last);
    case Event::Kind::rejected: error_ = bad_request(event.message); break;
    case Event::Kind::stopped: error_ = unavailable(event.message); break;
    case Event::Kind::failed: error_ = ApiError(500, "server_error", "the model failed: " + event.message); break;
  }
}

void Answer::take_token(int token, bool last) {
  ++count_;
  piece_.tokens.push_back(token);
  if (model_.tokenizer) piece_.text += text_.push(model_.tokenizer->bytes(token));
  if (last) piece_.text += text_.finish();
  if (text_.stopped() || (last && count_ < most_)) finish_reason_ = "stop";
  else if (last) finish_reason_ = "length";
}

Piece Answer::next() {
  piece_.finish_reason = finish_reason_;
  return std::exchange(piece_, {});
}

}  // namespace serve
