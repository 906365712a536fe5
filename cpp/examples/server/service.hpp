// What all connections share, the loop that accepts them, and how it ends.
#pragma once

#include <set>
#include <string>

#include "server/connection.hpp"
#include "server/model.hpp"
#include "server/network.hpp"
#include "server/scheduler.hpp"

namespace serve {

class Service {
 public:
  // Listens from here on. Throws std::runtime_error with the address when it cannot.
  Service(const Options& options, const Model& model, llama::Engine& engine);

  ~Service() { scheduler.join(); }
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  int port() const { return acceptor_.local_endpoint().port(); }
  // Accepts until SIGINT or SIGTERM; requests in flight have grace_seconds from then, or until the second signal.
  // Returns when all connections are closed. Throws std::runtime_error when the engine failed.
  void run();

  const Options& options;
  const Model& model;
  llama::Engine& engine;
  bool stopping = false;
  std::set<Connection*> connections;
  Scheduler scheduler;
  net::io_context io{1};  // after the scheduler: conversations that are destroyed with it still give their places back

 private:
  net::awaitable<void> accept();
  void start(tcp::socket socket);
  void ended(Connection& connection);
  void listen();
  void await_signal();
  void stop();
  void finish_when_empty();

  tcp::acceptor acceptor_;
  net::signal_set signals_;
  net::steady_timer grace_, pause_;
  std::string failure_;
};

}  // namespace serve
