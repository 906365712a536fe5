#include "slices.hpp"

namespace sparlow::bench {

Slices::Slices(int threads) : parts_(threads) {
  for (Index part = 1; part < parts_; ++part) threads_.emplace_back([this, part] { work(part); });
}

Slices::~Slices() {
  {
    const std::lock_guard lock(mutex_);
    quit_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Slices::do_part(Index part) {
  const Index begin = count_ * part / parts_, end = count_ * (part + 1) / parts_;
  if (begin < end) (*body_)(begin, end);
}

void Slices::run(Index count, const std::function<void(Index, Index)>& body) {
  {
    const std::lock_guard lock(mutex_);
    body_ = &body;
    count_ = count;
    left_ = parts_ - 1;
    ++turn_;
  }
  wake_.notify_all();
  do_part(0);
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return left_ == 0; });
}

void Slices::work(Index part) {
  std::unique_lock lock(mutex_);
  for (std::uint64_t seen = 0;;) {
    wake_.wait(lock, [&] { return quit_ || turn_ != seen; });
    if (quit_) return;
    seen = turn_;
    lock.unlock();
    do_part(part);
    lock.lock();
    if (--left_ == 0) done_.notify_one();
  }
}

}  // namespace sparlow::bench
