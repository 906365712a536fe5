// A product cut into slices for threads that sleep in between.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "sparlow/view.hpp"

namespace sparlow::bench {

class Slices {
 public:
  explicit Slices(int threads);  // the caller is one of them
  ~Slices();
  Slices(const Slices&) = delete;

  // Calls body(begin, end) on as many equal parts of [0, count) as there are threads, and waits.
  void run(Index count, const std::function<void(Index, Index)>& body);

 private:
  void work(Index part);
  void do_part(Index part);

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(Index, Index)>* body_ = nullptr;
  Index count_ = 0, parts_;
  std::uint64_t turn_ = 0;
  Index left_ = 0;
  bool quit_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace sparlow::bench
