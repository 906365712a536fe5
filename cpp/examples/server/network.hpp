// The parts of Boost that the server uses, under short names.
#pragma once

// clang-format off
#include <utility>  // which Boost 1.74 forgets
// clang-format on
#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>

namespace serve {

namespace beast = boost::beast;
namespace http = beast::http;
namespace net = boost::asio;
using net::ip::tcp;

// For an operation whose error the caller looks at; with net::use_awaitable it is thrown.
inline auto into(beast::error_code& code) { return net::redirect_error(net::use_awaitable, code); }

}  // namespace serve
