#include "server/scheduler.hpp"

#include <algorithm>

#include "server/errors.hpp"

namespace serve {

Scheduler::Scheduler(llama::Engine& engine, std::size_t queue, std::function<void(const std::string&)> failed)
    : engine_(engine), queue_(queue), failed_(std::move(failed)), thread_([this] { loop(); }) {}

Scheduler::Ticket Scheduler::submit(Job job, Sink sink) {
  const std::lock_guard lock(mutex_);
  if (mode_ != Mode::open) throw unavailable("the server is shutting down");
  const std::size_t room = static_cast<std::size_t>(engine_.slots()) + queue_;
  if (waiting_.size() + running_count_ >= room)
    throw unavailable("the server is busy: " + std::to_string(room) + " requests run or wait already; try again soon");
  waiting_.push_back({next_, std::move(job), std::move(sink)});
  changed_.notify_one();
  return next_++;
}

void Scheduler::cancel(Ticket ticket) {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find(waiting_, ticket, &Item::ticket);
  if (found != waiting_.end()) {
    waiting_.erase(found);
  } else {
    cancelled_.push_back(ticket);
    changed_.notify_one();
  }
}

void Scheduler::drain() {
  const std::lock_guard lock(mutex_);
  if (mode_ == Mode::open) mode_ = Mode::draining;
  changed_.notify_one();
}

void Scheduler::stop() {
  const std::lock_guard lock(mutex_);
  mode_ = Mode::stopping;
  changed_.notify_one();
}

void Scheduler::join() {
  stop();
  if (thread_.joinable()) thread_.join();
}

std::size_t Scheduler::waiting() const {
  const std::lock_guard lock(mutex_);
  return waiting_.size();
}

void Scheduler::loop() {
  try {
    while (prepare()) deliver(engine_.step());
    end_all(Event::Kind::stopped, "the server is shutting down");
  } catch (const std::exception& error) {
    stop();
    end_all(Event::Kind::failed, error.what());
    failed_(error.what());
  }
}

// Waits until there is something to compute; false when there never will be again.
bool Scheduler::prepare() {
  std::unique_lock lock(mutex_);
  while (true) {
    drop_cancelled();
    if (mode_ == Mode::stopping) return false;
    if (mode_ == Mode::open) admit();
    if (!running_.empty()) break;
    if (mode_ == Mode::draining) return false;
    changed_.wait(lock);
  }
  if (mode_ == Mode::draining) {
    for (Item& item : waiting_) item.sink({Event::Kind::stopped, 0, true, "the server is shutting down"});
    waiting_.clear();
  }
  return true;
}

void Scheduler::drop_cancelled() {
  for (const Ticket ticket : cancelled_) {
    const auto found = std::ranges::find_if(running_, [&](const auto& entry) { return entry.second.ticket == ticket; });
    if (found != running_.end()) leave(found->first);
  }
  cancelled_.clear();
}

void Scheduler::admit() {
  while (!waiting_.empty() && running_.size() < static_cast<std::size_t>(engine_.slots())) {
    if (!enter(waiting_.front())) return;
    waiting_.pop_front();
  }
}

// False when the engine has no slot after all.
bool Scheduler::enter(Item& item) {
  try {
    const int slot = engine_.add(item.job.prompt, item.job.sampling, item.job.max_tokens);
    running_.emplace(slot, std::move(item));
    running_count_ = running_.size();
  } catch (const llama::Full&) {
    return false;
  } catch (const std::invalid_argument& error) {
    item.sink({Event::Kind::rejected, 0, true, error.what()});
  }
  return true;
}

void Scheduler::deliver(std::span<const llama::Step> steps) {
  std::vector<int> over;
  for (const llama::Step& step : steps) {
    running_.at(step.slot).sink({Event::Kind::token, step.token, step.last, ""});
    if (step.last) over.push_back(step.slot);
  }
  for (const int slot : over) leave(slot);
}

void Scheduler::leave(int slot) {
  engine_.remove(slot);
  running_.erase(slot);
  running_count_ = running_.size();
}

void Scheduler::end_all(Event::Kind kind, const std::string& message) {
  const std::lock_guard lock(mutex_);
  for (auto& [slot, item] : running_) {
    item.sink({kind, 0, true, message});
    if (kind == Event::Kind::stopped) engine_.remove(slot);
  }
  running_.clear();
  running_count_ = 0;
  for (Item& item : waiting_) item.sink({kind, 0, true, message});
  waiting_.clear();
}

}  // namespace serve
