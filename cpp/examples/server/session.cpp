#include "server/session.hpp"

#include "server/complete.hpp"
#include "server/replies.hpp"

namespace serve {
namespace {

Reply health(const Service& service) {
  return {service.stopping ? 503 : 200,
          {{"status", service.stopping ? "stopping" : "ok"},
           {"running", service.scheduler.running()},
           {"waiting", service.scheduler.waiting()},
           {"slots", service.engine.slots()},
           {"connections", service.connections.size()}},
          ""};
}

Reply wrong_method(const Request& request, const std::string& allow) {
  Reply reply = error_reply(ApiError(
      405, "invalid_request_error",
      std::string(request.method_string()) + " is not for " + cut(std::string(request.target())) + "; use " + allow));
  reply.allow = allow;
  return reply;
}

bool is_json(const Request& request) {
  const std::string type(request[http::field::content_type]);
  return beast::iequals(type.substr(0, type.find(';')), "application/json");
}

std::string path_of(const Request& request) {
  const std::string target(request.target());
  return target.substr(0, target.find('?'));
}

bool is_completion(const Request& request) {
  return request.method() == http::verb::post && path_of(request) == "/v1/completions" && is_json(request);
}

// All that needs no model.
Reply route(const Service& service, const Request& request) {
  const std::string path = path_of(request);
  const bool get = request.method() == http::verb::get;
  if (path == "/health") return get ? health(service) : wrong_method(request, "GET");
  if (path == "/v1/models") return get ? Reply{200, models_json(service.model), ""} : wrong_method(request, "GET");
  if (path == "/v1/models/" + service.model.name)
    return get ? Reply{200, model_json(service.model), ""} : wrong_method(request, "GET");
  if (path == "/v1/completions" && request.method() == http::verb::post)
    return error_reply(ApiError(415, "invalid_request_error", "Content-Type must be application/json"));
  if (path == "/v1/completions") return wrong_method(request, "POST");
  return error_reply(ApiError(404, "invalid_request_error", "no such path: " + cut(path)));
}

net::awaitable<bool> answer(Connection& connection, Service& service, const Request& request) {
  std::optional<ApiError> refused;
  try {
    if (is_completion(request)) co_return co_await complete(connection, service, request);
  } catch (const ApiError& error) {
    refused = error;
  }
  const bool keep_alive = request.keep_alive() && !service.stopping;
  const Reply reply = refused ? error_reply(*refused) : route(service, request);
  co_await write_reply(connection, service.options, reply, keep_alive);
  co_return keep_alive;
}

}  // namespace

net::awaitable<void> converse(Connection& connection, Service& service) {
  bool open = true;
  while (open && !service.stopping) {
    const Incoming incoming = co_await read_request(connection, service.options);
    if (!incoming.request && !incoming.error) co_return;
    connection.answering = true;
    if (incoming.request) {
      open = co_await answer(connection, service, *incoming.request);
    } else {
      co_await write_reply(connection, service.options, error_reply(*incoming.error), false);
      open = false;
    }
    connection.answering = false;
  }
  connection.answering = true;  // until the client has read it
  co_await close_gently(connection);
}

net::awaitable<void> turn_away(Connection& connection, Service& service) {
  connection.answering = true;
  const ApiError error = unavailable("the server has too many connections; try again soon");
  co_await write_reply(connection, service.options, error_reply(error), false);
  co_await close_gently(connection);
}

}  // namespace serve
