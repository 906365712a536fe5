#include "server/completion.hpp"

#include <map>
#include <random>

namespace serve {
namespace {

constexpr int kDeepest = 8;
constexpr std::size_t kMostStops = 4, kLongestStop = 1024;

struct Reading {
  Completion& completion;
  const Model& model;
};

using Reader = void (*)(Reading&, const Json& value, const std::string& field);

double number(const Json& value, const std::string& field, double least, double most, bool least_too) {
  const double given = value.is_number() ? value.get<double>() : least - 1;
  if (given < least || given > most || (given == least && !least_too))
    throw bad_request(field + ": must be a number " + (least_too ? "from " : "above ") + Json(least).dump() +
                          (least_too ? " to " : ", at most ") + Json(most).dump() + ", not " + quoted(value),
                      field);
  return given;
}

bool flag(const Json& value, const std::string& field) {
  if (!value.is_boolean()) throw bad_request(field + ": must be true or false, not " + quoted(value), field);
  return value.get<bool>();
}

int token_id(const Json& value, const Model& model) {
  if (!value.is_number_integer() || value < 0 || value >= model.vocabulary)
    throw bad_request(
        "prompt: " + quoted(value) + " is not a token id from 0 to " + std::to_string(model.vocabulary - 1), "prompt");
  return value.get<int>();
}

std::vector<int> token_ids(const std::string& text, const Model& model) {
  if (!model.tokenizer) throw bad_request("prompt: only token ids are accepted; " + model.no_text, "prompt");
  std::vector<int> ids = model.tokenizer->encode(text);
  for (const int id : ids) token_id(id, model);
  return ids;
}

// A text, a list of token ids, or a list with one of those.
void read_prompt(Reading& reading, const Json& value, const std::string& field) {
  const bool nested = value.is_array() && !value.empty() && !value[0].is_number();
  if (nested && value.size() > 1) throw bad_request("prompt: one prompt a request, not a list of several", field);
  const Json& prompt = nested ? value[0] : value;
  std::vector<int>& ids = reading.completion.job.prompt;
  if (prompt.is_string()) {
    ids = token_ids(prompt.get_ref<const std::string&>(), reading.model);
  } else if (prompt.is_array()) {
    for (const Json& id : prompt) ids.push_back(token_id(id, reading.model));
  } else {
    throw bad_request("prompt: must be a text or a list of token ids", field);
  }
  if (ids.empty()) throw bad_request("prompt: has no tokens", field);
}

void read_model(Reading& reading, const Json& value, const std::string& field) {
  if (!value.is_string()) throw bad_request("model: must be a text, not " + quoted(value), field);
  if (value != reading.model.name)
    throw ApiError(404, "invalid_request_error",
                   "model: " + quoted(value) + " is not here; this server has '" + reading.model.name + "'", field,
                   "model_not_found");
}

void read_max_tokens(Reading& reading, const Json& value, const std::string& field) {
  if (!value.is_number_integer() || value < 1 || value > reading.model.context)
    throw bad_request("max_tokens: must be a whole number from 1 to the context of " +
                          std::to_string(reading.model.context) + " tokens, not " + quoted(value),
                      field);
  reading.completion.job.max_tokens = value.get<int>();
}

void read_temperature(Reading& reading, const Json& value, const std::string& field) {
  reading.completion.job.sampling.temperature = static_cast<float>(number(value, field, 0, 2, true));
}

void read_top_p(Reading& reading, const Json& value, const std::string& field) {
  reading.completion.job.sampling.top_p = static_cast<float>(number(value, field, 0, 1, false));
}

void read_seed(Reading& reading, const Json& value, const std::string& field) {
  if (!value.is_number_integer()) throw bad_request("seed: must be a whole number, not " + quoted(value), field);
  reading.completion.job.sampling.seed = value.get<std::uint64_t>();
}

void read_stop(Reading& reading, const Json& value, const std::string& field) {
  const Json list = value.is_array() ? value : Json::array({value});
  if (list.size() > kMostStops) throw bad_request("stop: at most 4 texts", field);
  for (const Json& text : list) {
    if (!text.is_string() || text.get_ref<const std::string&>().empty() ||
        text.get_ref<const std::string&>().size() > kLongestStop)
      throw bad_request("stop: must be a text of 1 to 1024 bytes, or a list of them", field);
    reading.completion.stop.push_back(text.get<std::string>());
  }
  if (!list.empty() && !reading.model.tokenizer)
    throw bad_request("stop: there is no text; " + reading.model.no_text, field);
}

void read_stream(Reading& reading, const Json& value, const std::string& field) {
  reading.completion.stream = flag(value, field);
}

void read_stream_options(Reading& reading, const Json& value, const std::string& field) {
  if (!value.is_object()) throw bad_request("stream_options: must be an object, not " + quoted(value), field);
  for (const auto& [key, option] : value.items()) {
    if (key != "include_usage") throw bad_request("stream_options: unknown field " + quoted(Json(key)), field);
    reading.completion.include_usage = flag(option, "stream_options.include_usage");
  }
}

void read_user(Reading&, const Json& value, const std::string& field) {
  if (!value.is_string()) throw bad_request("user: must be a text, not " + quoted(value), field);
}

// Only what the server does anyway.
template <int only>
void read_only(Reading&, const Json& value, const std::string& field) {
  if (value != only) throw bad_request(field + ": only " + std::to_string(only) + " is supported", field);
}

void read_nothing(Reading&, const Json& value, const std::string& field) {
  if (!value.empty() && value != false) throw bad_request(field + ": is not supported", field);
}

const std::map<std::string, Reader> kFields = {
    {"prompt", read_prompt},
    {"model", read_model},
    {"max_tokens", read_max_tokens},
    {"temperature", read_temperature},
    {"top_p", read_top_p},
    {"seed", read_seed},
    {"stop", read_stop},
    {"stream", read_stream},
    {"stream_options", read_stream_options},
    {"user", read_user},
    {"n", read_only<1>},
    {"best_of", read_only<1>},
    {"presence_penalty", read_only<0>},
    {"frequency_penalty", read_only<0>},
    {"logprobs", read_nothing},
    {"logit_bias", read_nothing},
    {"suffix", read_nothing},
    {"echo", read_nothing},
};

// Copies and messages of a value recurse into it; a request has no need of depth.
bool shallow(int depth, Json::parse_event_t, Json&) {
  if (depth > kDeepest) throw bad_request("the body is nested deeper than " + std::to_string(kDeepest) + " levels");
  return true;
}

Json parse_object(const std::string& body) {
  Json json;
  try {
    json = Json::parse(body, shallow);
  } catch (const Json::exception& error) {
    throw bad_request("the body is not valid JSON: " + cut(error.what()));
  }
  if (!json.is_object()) throw bad_request("the body must be a JSON object");
  return json;
}

std::uint64_t fresh_seed() {
  std::random_device device;
  return static_cast<std::uint64_t>(device()) << 32 | device();
}

}  // namespace

Completion parse_completion(const std::string& body, const Model& model) {
  const Json json = parse_object(body);
  Completion completion;
  completion.job.max_tokens = 16;
  completion.job.sampling = {1, 1, fresh_seed()};
  Reading reading{completion, model};
  for (const auto& [field, value] : json.items()) {
    const auto reader = kFields.find(field);
    if (reader == kFields.end()) throw bad_request("unknown field " + quoted(Json(field)), cut(field));
    if (!value.is_null()) reader->second(reading, value, field);
  }
  const std::size_t prompt = completion.job.prompt.size(), answer = completion.job.max_tokens;
  if (prompt == 0) throw bad_request("prompt: is missing", "prompt");
  if (prompt + answer > static_cast<std::size_t>(model.context))
    throw bad_request("prompt: its " + std::to_string(prompt) + " tokens and max_tokens " + std::to_string(answer) +
                          " are more than the context of " + std::to_string(model.context) + " tokens",
                      "prompt", "context_length_exceeded");
  return completion;
}

}  // namespace serve
