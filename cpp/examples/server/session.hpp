// What is said on one connection: request, answer, request, answer.
#pragma once

#include "server/connection.hpp"
#include "server/service.hpp"

namespace serve {

net::awaitable<void> converse(Connection& connection, Service& service);

// For a connection too many.
net::awaitable<void> turn_away(Connection& connection, Service& service);

}  // namespace serve
