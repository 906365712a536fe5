// One client's connection, with a limit in time on everything that waits for the client.
#pragma once

#include <memory>
#include <optional>

#include "server/errors.hpp"
#include "server/network.hpp"
#include "server/options.hpp"

namespace serve {

using Request = http::request<http::string_body>;

struct Connection {
  explicit Connection(tcp::socket socket) : stream(std::move(socket)) {}

  beast::tcp_stream stream;
  beast::flat_buffer buffer;
  bool answering = false;  // else it waits for a request, and may be closed
};

struct Incoming {
  std::optional<Request> request;
  std::optional<ApiError> error;  // to answer and then close; neither: the client left or was too slow
};

net::awaitable<Incoming> read_request(Connection& connection, const Options& options);

struct Reply {
  int status = 200;
  Json body;
  std::string allow;  // the methods that a path has, for 405
};

Reply error_reply(const ApiError& error);

// These throw boost::system::system_error when the client is gone or does not take the answer in time.
net::awaitable<void> write_reply(Connection& connection, const Options& options, const Reply& reply, bool keep_alive);

// Closes so that a client which is still sending can read the answer: what it sends is dropped for a moment.
net::awaitable<void> close_gently(Connection& connection);

// A body of unknown length.
class Pieces {
 public:
  Pieces(Connection& connection, const Options& options, const Request& request);

  net::awaitable<void> open(const char* content_type, bool keep_alive);
  net::awaitable<void> write(const std::string& bytes);
  net::awaitable<void> close();
  bool delimited() const { return chunked_; }  // else only closing the connection says where it ends

 private:
  Connection& connection_;
  const std::chrono::seconds limit_;
  const bool chunked_;  // HTTP/1.0 knows no chunks
};

}  // namespace serve
