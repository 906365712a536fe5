// How events of the engine's thread reach the coroutine on the network's thread that waits for them.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "server/network.hpp"
#include "server/scheduler.hpp"

namespace serve {

class Inbox : public std::enable_shared_from_this<Inbox> {
 public:
  explicit Inbox(net::io_context& io) : io_(io), bell_(io, net::steady_timer::time_point::max()) {}

  // To be called on any thread.
  Scheduler::Sink sink() {
    return [self = shared_from_this()](const Event& event) {
      net::post(self->io_, [self, event] {
        self->events_.push_back(event);
        self->bell_.cancel();
      });
    };
  }

  // The client will not read an answer.
  void leave() {
    left_ = true;
    bell_.cancel();
  }
  bool left() const { return left_; }

  // Returns with events, or with none once the client left.
  net::awaitable<std::vector<Event>> wait() {
    beast::error_code rung;
    while (events_.empty() && !left_) co_await bell_.async_wait(into(rung));
    co_return left_ ? std::vector<Event>() : std::exchange(events_, {});
  }

 private:
  net::io_context& io_;
  net::steady_timer bell_;
  std::vector<Event> events_;
  bool left_ = false;
};

}  // namespace serve
