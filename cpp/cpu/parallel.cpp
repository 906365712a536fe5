#include "cpu/parallel.hpp"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "cpu/blas.hpp"
#include "sparlow/backend.hpp"

namespace sparlow {
namespace {

int usable_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int threads_from_environment() {
  for (const char* name : {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}) {
    const char* text = std::getenv(name);
    if (text == nullptr) continue;
    if (const int count = std::atoi(text); count > 0) return std::min(count, 1024);
  }
  return usable_cores();
}

// One job at a time; the caller works too.
class Pool {
 public:
  static Pool& get() {
    static Pool pool;
    return pool;
  }

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  void resize(int count) {
    std::lock_guard<std::mutex> owner(owner_);
    stop();
    start(count);
  }

  void run(Index chunks, const std::function<void(Index)>& chunk) {
    std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner || workers_.empty() || chunks <= 1) {  // nested or concurrent callers simply do their own work
      for (Index i = 0; i < chunks; ++i) chunk(i);
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      chunk_ = &chunk;
      chunks_ = chunks;
      next_ = 0;
      active_ = static_cast<int>(workers_.size());
      error_ = nullptr;
      ++generation_;
    }
    wake_.notify_all();
    take();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return active_ == 0; });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  Pool() { start(threads_from_environment()); }
  ~Pool() { stop(); }

  void start(int count) {
    quit_ = false;
    SPARLOW_BLAS(openblas_set_num_threads)(count);
    for (int i = 1; i < count; ++i) workers_.emplace_back([this, seen = generation_]() mutable { work(seen); });
  }

  void stop() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      quit_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
  }

  void work(std::uint64_t seen) {
    for (;;) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return quit_ || generation_ != seen; });
        if (quit_) return;
        seen = generation_;
      }
      take();
      std::lock_guard<std::mutex> lock(mutex_);
      if (--active_ == 0) done_.notify_one();
    }
  }

  void take() {
    try {
      for (Index i = next_++; i < chunks_; i = next_++) (*chunk_)(i);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
      next_ = chunks_;
    }
  }

  std::mutex owner_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> workers_;
  const std::function<void(Index)>* chunk_ = nullptr;
  Index chunks_ = 0;
  std::atomic<Index> next_{0};
  int active_ = 0;
  std::uint64_t generation_ = 0;
  bool quit_ = false;
  std::exception_ptr error_;
};

}  // namespace

namespace cpu {

void parallel_for(Index count, Index grain, const std::function<void(Index, Index)>& body) {
  const Index chunks = (count + grain - 1) / grain;
  if (chunks <= 1) {
    if (count > 0) body(0, count);
    return;
  }
  Pool::get().run(chunks, [&](Index i) { body(i * grain, std::min(count, (i + 1) * grain)); });
}

double parallel_sum(Index count, Index grain, const std::function<double(Index, Index)>& body) {
  std::vector<double> parts(static_cast<std::size_t>((count + grain - 1) / grain));
  parallel_for(count, grain, [&](Index begin, Index end) { parts[begin / grain] = body(begin, end); });
  double sum = 0;
  for (double part : parts) sum += part;
  return sum;
}

Index row_grain(Index cols) { return std::max<Index>(1, 65536 / std::max<Index>(1, cols)); }

}  // namespace cpu

int num_threads() { return Pool::get().size(); }

void set_num_threads(int count) {
  require(count >= 1 && count <= 1024, "set_num_threads: ", count, " is outside [1, 1024]");
  Pool::get().resize(count);
}

}  // namespace sparlow
