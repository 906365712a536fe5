// One thread that owns the engine and answers all requests together: a request joins between two steps, and leaves so.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "llama/engine.hpp"

namespace serve {

struct Job {
  std::vector<int> prompt;
  llama::Sampling sampling;
  int max_tokens = 1;
};

struct Event {
  enum class Kind { token, rejected, stopped, failed };  // all but token are a request's last event
  Kind kind = Kind::token;
  int token = 0;
  bool last = false;
  std::string message;
};

class Scheduler {
 public:
  using Sink = std::function<void(const Event&)>;  // called on the engine's thread: must not block, throw or call back
  using Ticket = std::uint64_t;

  // queue: how many requests may wait beside those in a slot. failed: called once, on the engine's thread, when the
  // engine threw; every request has had its `failed` event then, and later ones are refused.
  Scheduler(llama::Engine& engine, std::size_t queue, std::function<void(const std::string&)> failed);
  ~Scheduler() { join(); }
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Throws ApiError (503) when the queue is full or the server is stopping.
  Ticket submit(Job job, Sink sink);
  // The request's slot is free before the next step; its sink may still be called until then.
  void cancel(Ticket ticket);
  // No new requests; those that wait get `stopped`, those in a slot are answered to their end.
  void drain();
  // The same, and those in a slot get `stopped` after the step that runs now.
  void stop();
  // stop(), and waits for the thread: no sink is called after it.
  void join();

  std::size_t running() const { return running_count_; }
  std::size_t waiting() const;

 private:
  enum class Mode { open, draining, stopping };
  struct Item {
    Ticket ticket = 0;
    Job job;
    Sink sink;
  };

  void loop();
  bool prepare();
  void drop_cancelled();
  void admit();
  bool enter(Item& item);
  void deliver(std::span<const llama::Step> steps);
  void leave(int slot);
  void end_all(Event::Kind kind, const std::string& message);

  llama::Engine& engine_;
  const std::size_t queue_;
  const std::function<void(const std::string&)> failed_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Mode mode_ = Mode::open;
  Ticket next_ = 1;
  std::deque<Item> waiting_;
  std::vector<Ticket> cancelled_;

  std::unordered_map<int, Item> running_;  // by slot; only the engine's thread looks at it
  std::atomic<std::size_t> running_count_ = 0;
  std::thread thread_;
};

}  // namespace serve
