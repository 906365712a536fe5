#include "server/service.hpp"

#include <cstdio>

#include "server/session.hpp"

namespace serve {

Service::Service(const Options& options, const Model& model, llama::Engine& engine)
    : options(options),
      model(model),
      engine(engine),
      scheduler(engine, static_cast<std::size_t>(options.queue),
                [this](const std::string& message) {
                  net::post(io, [this, message] {
                    failure_ = message;
                    stop();
                  });
                }),
      acceptor_(io),
      signals_(io, SIGINT, SIGTERM),
      grace_(io),
      pause_(io) {
  listen();
}

void Service::listen() {
  try {
    const tcp::endpoint endpoint(net::ip::make_address(options.host), static_cast<unsigned short>(options.port));
    acceptor_.open(endpoint.protocol());
    acceptor_.set_option(tcp::acceptor::reuse_address(true));
    acceptor_.bind(endpoint);
    acceptor_.listen();
  } catch (const boost::system::system_error& error) {
    throw std::runtime_error("cannot listen on " + options.host + ":" + std::to_string(options.port) + ": " +
                             error.code().message());
  }
}

void Service::run() {
  await_signal();
  net::co_spawn(io, accept(), [](std::exception_ptr error) {
    if (error) std::rethrow_exception(error);
  });
  io.run();
  if (!failure_.empty()) throw std::runtime_error("the model failed: " + failure_);
}

net::awaitable<void> Service::accept() {
  while (!stopping) {
    beast::error_code code;
    tcp::socket socket = co_await acceptor_.async_accept(into(code));
    if (code && !stopping) {
      pause_.expires_after(std::chrono::milliseconds(100));  // out of file descriptors, most likely: some will close
      co_await pause_.async_wait(into(code));
    } else if (!code) {
      start(std::move(socket));
    }
  }
}

void Service::start(tcp::socket socket) {
  const std::size_t limit = static_cast<std::size_t>(options.connections);
  if (connections.size() >= 2 * limit) return;  // no time even to say so
  beast::error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  const auto connection = std::make_shared<Connection>(std::move(socket));
  const bool welcome = connections.size() < limit;
  connections.insert(connection.get());
  auto session = welcome ? converse(*connection, *this) : turn_away(*connection, *this);
  net::co_spawn(io, std::move(session), [this, connection](std::exception_ptr error) {
    ended(*connection);
    try {
      if (error) std::rethrow_exception(error);
    } catch (const boost::system::system_error&) {  // the client is gone
    } catch (const std::exception& unexpected) {
      std::fprintf(stderr, "connection: %s\n", unexpected.what());
    }
  });
}

void Service::ended(Connection& connection) {
  connections.erase(&connection);
  finish_when_empty();
}

void Service::await_signal() {
  signals_.async_wait([this](beast::error_code code, int) {
    if (code) return;
    if (stopping) scheduler.stop();
    else stop();
    await_signal();
    finish_when_empty();
  });
}

void Service::stop() {
  if (stopping) return;
  stopping = true;
  acceptor_.close();
  pause_.cancel();
  scheduler.drain();
  grace_.expires_after(std::chrono::seconds(options.grace_seconds));
  grace_.async_wait([this](beast::error_code code) {
    if (!code) scheduler.stop();
  });
  for (Connection* connection : connections)
    if (!connection->answering) connection->stream.close();
  finish_when_empty();
}

void Service::finish_when_empty() {
  if (!stopping || !connections.empty()) return;
  grace_.cancel();
  signals_.cancel();
}

}  // namespace serve
