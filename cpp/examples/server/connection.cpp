#include "server/connection.hpp"

namespace serve {
namespace {

using std::chrono::seconds;

constexpr std::uint32_t kHeaderBytes = 16384;
constexpr std::size_t kDropped = std::size_t{16} << 20;
using Parser = http::request_parser<http::string_body>;

// Empty for what is no mistake of the client's.
std::optional<ApiError> reading_error(beast::error_code code, const Options& options) {
  if (code == http::error::body_limit)
    return ApiError(413, "invalid_request_error",
                    "the body is longer than " + std::to_string(options.body_bytes) + " bytes");
  if (code == http::error::header_limit)
    return ApiError(431, "invalid_request_error",
                    "the header is longer than " + std::to_string(kHeaderBytes) + " bytes");
  const bool left = code == http::error::end_of_stream || code == http::error::partial_message;
  if (left || code.category() != make_error_code(http::error::bad_method).category()) return {};
  return bad_request("not HTTP: " + code.message());
}

net::awaitable<void> invite_body(Connection& connection, unsigned version) {
  http::response<http::empty_body> invitation(http::status::continue_, version);
  co_await http::async_write(connection.stream, invitation, net::use_awaitable);
}

}  // namespace

net::awaitable<Incoming> read_request(Connection& connection, const Options& options) {
  Parser parser;
  parser.header_limit(kHeaderBytes);
  parser.body_limit(static_cast<std::uint64_t>(options.body_bytes));
  beast::error_code code;
  connection.stream.expires_after(seconds(options.header_seconds));
  co_await http::async_read_header(connection.stream, connection.buffer, parser, into(code));
  if (!code) {
    connection.stream.expires_after(seconds(options.body_seconds));
    if (parser.get()[http::field::expect] == "100-continue") co_await invite_body(connection, parser.get().version());
    co_await http::async_read(connection.stream, connection.buffer, parser, into(code));
  }
  Incoming incoming;
  if (code) incoming.error = reading_error(code, options);
  else incoming.request = parser.release();
  co_return incoming;
}

Reply error_reply(const ApiError& error) { return {error.status, to_json(error), ""}; }

net::awaitable<void> write_reply(Connection& connection, const Options& options, const Reply& reply, bool keep_alive) {
  http::response<http::string_body> response(static_cast<http::status>(reply.status), 11);
  response.set(http::field::content_type, "application/json");
  if (reply.status == 503) response.set(http::field::retry_after, "1");
  if (!reply.allow.empty()) response.set(http::field::allow, reply.allow);
  response.body() = dump(reply.body) + "\n";
  response.keep_alive(keep_alive);
  response.prepare_payload();
  connection.stream.expires_after(seconds(options.write_seconds));
  co_await http::async_write(connection.stream, response, net::use_awaitable);
}

net::awaitable<void> close_gently(Connection& connection) {
  beast::error_code code;
  connection.stream.socket().shutdown(tcp::socket::shutdown_send, code);
  connection.stream.expires_after(seconds(1));
  std::array<char, 8192> dropped;
  for (std::size_t count = 0; !code && count < kDropped;)
    count += co_await connection.stream.async_read_some(net::buffer(dropped), into(code));
  connection.stream.close();
}

Pieces::Pieces(Connection& connection, const Options& options, const Request& request)
    : connection_(connection), limit_(options.write_seconds), chunked_(request.version() >= 11) {}

net::awaitable<void> Pieces::open(const char* content_type, bool keep_alive) {
  http::response<http::empty_body> head(http::status::ok, 11);
  head.set(http::field::content_type, content_type);
  head.set(http::field::cache_control, "no-cache");
  head.keep_alive(keep_alive && chunked_);
  if (chunked_) head.chunked(true);
  http::response_serializer<http::empty_body> serializer(head);
  connection_.stream.expires_after(limit_);
  co_await http::async_write_header(connection_.stream, serializer, net::use_awaitable);
}

net::awaitable<void> Pieces::write(const std::string& bytes) {
  connection_.stream.expires_after(limit_);
  if (chunked_) co_await net::async_write(connection_.stream, http::make_chunk(net::buffer(bytes)), net::use_awaitable);
  else co_await net::async_write(connection_.stream, net::buffer(bytes), net::use_awaitable);
}

net::awaitable<void> Pieces::close() {
  if (!chunked_) co_return;
  connection_.stream.expires_after(limit_);
  co_await net::async_write(connection_.stream, http::make_chunk_last(), net::use_awaitable);
}

}  // namespace serve
