// POST /v1/completions, from the request to the last byte of its answer.
#pragma once

#include "server/connection.hpp"
#include "server/service.hpp"

namespace serve {

// Returns whether the connection can take another request.
net::awaitable<bool> complete(Connection& connection, Service& service, const Request& request);

}  // namespace serve
