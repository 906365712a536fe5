// What a client did wrong, or the server could not do, in the form in which OpenAI's interface says it.
#pragma once

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

namespace serve {

using Json = nlohmann::json;

struct ApiError : std::runtime_error {
  ApiError(int status, std::string type, const std::string& message, std::string param = "", std::string code = "")
      : std::runtime_error(message),
        status(status),
        type(std::move(type)),
        param(std::move(param)),
        code(std::move(code)) {}

  int status;  // of HTTP
  std::string type, param, code;
};

inline ApiError bad_request(const std::string& message, const std::string& param = "", const std::string& code = "") {
  return {400, "invalid_request_error", message, param, code};
}

inline ApiError unavailable(const std::string& message) { return {503, "server_error", message, "", "overloaded"}; }

inline Json to_json(const ApiError& error) {
  const auto text = [](const std::string& value) { return value.empty() ? Json(nullptr) : Json(value); };
  return {
      {"error",
       {{"message", error.what()}, {"type", error.type}, {"param", text(error.param)}, {"code", text(error.code)}}}};
}

// Bytes a client sent may be no UTF-8; an error message that quotes them still has to be JSON.
inline std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

// What a message quotes may be as long as the body it came from.
inline std::string cut(const std::string& text) { return text.size() <= 200 ? text : text.substr(0, 200) + " ..."; }

inline std::string quoted(const Json& json) { return cut(dump(json)); }

}  // namespace serve
