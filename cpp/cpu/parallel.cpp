#include "cpu/parallel.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <mutex>
#include <thread>
#include <vector>

#include "cpu/blas.hpp"
#include "sparlow/backend.hpp"

namespace sparlow {
namespace {

// A container may own fewer cores than it sees.
int quota_cores() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  double quota = 0, period = 0;
  return file >> quota >> period && quota > 0 && period > 0 ? static_cast<int>(std::ceil(quota / period)) : 1024;
}

int usable_cores() {
  cpu_set_t set;
  const bool known = sched_getaffinity(0, sizeof set, &set) == 0;
  const int seen = known ? CPU_COUNT(&set) : static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, std::min(seen, quota_cores()));
}

int threads_from_environment() {
  for (const char* name : {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}) {
    const char* text = std::getenv(name);
    if (text == nullptr) continue;
    if (const int count = std::atoi(text); count > 0) return std::min(count, 1024);
  }
  return usable_cores();
}

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits for ready() for about as long as it takes to wake a thread that sleeps, and no longer: jobs often follow each
// other at once, as the layers of a token do, but cores are not ours alone.
template <typename Ready>
void wait_a_little(Ready&& ready) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::microseconds(50);
  do {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return;
      pause();
    }
  } while (Clock::now() < end);
}

// One job at a time; the caller works too, and never waits for a worker that has not begun.
class Pool {
 public:
  static Pool& get() {
    static Pool& pool = *new Pool;  // never destroyed: at exit, a forked child would wait for workers it does not have
    return pool;
  }

  int size() const { return size_; }

  void resize(int count) {
    if (forked()) fail(ErrorCode::unavailable, "the number of threads cannot change in a forked process");
    while (busy_.exchange(true)) std::this_thread::yield();
    stop();
    start(count);
    busy_ = false;
  }

  void run(Index chunks, const std::function<void(Index)>& chunk) {
    // Nested and concurrent callers do their own work; so does a forked child, which has no workers.
    if (size_ == 1 || forked() || busy_.exchange(true)) {
      for (Index i = 0; i < chunks; ++i) chunk(i);
      return;
    }
    open(chunks, chunk);
    take(chunks);
    const std::exception_ptr error = close();
    busy_ = false;
    if (error) std::rethrow_exception(error);
  }

 private:
  Pool() { start(threads_from_environment()); }

  bool forked() const { return getpid() != process_; }

  void start(int count) {
    quit_ = false;
    SPARLOW_BLAS(openblas_set_num_threads)(1);  // see products.hpp
    size_ = count;
    for (int i = 1; i < count; ++i) workers_.emplace_back([this] { work(); });
  }

  void stop() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      quit_ = true;
      ++calls_;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
  }

  void open(Index chunks, const std::function<void(Index)>& chunk) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      chunk_ = &chunk;
      next_ = 0;
      chunks_ = chunks;
      error_ = nullptr;
      ++calls_;
    }
    wake_.notify_all();
  }

  std::exception_ptr close() {
    std::unique_lock<std::mutex> lock(mutex_);
    chunks_ = 0;
    lock.unlock();
    wait_a_little([this] { return inside_ == 0; });
    lock.lock();
    done_.wait(lock, [this] { return inside_ == 0; });
    return error_;
  }

  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      const unsigned seen = calls_;
      if (next_ >= chunks_ && !quit_) {
        lock.unlock();
        wait_a_little([&] { return calls_ != seen; });
        lock.lock();
      }
      wake_.wait(lock, [this] { return quit_ || next_ < chunks_; });
      if (quit_) return;
      ++inside_;
      const Index chunks = chunks_;
      lock.unlock();
      take(chunks);
      lock.lock();
      if (--inside_ == 0) done_.notify_one();
    }
  }

  // The number of chunks is a copy: close() clears chunks_ while a worker may still compare the index it has drawn.
  void take(Index chunks) {
    try {
      for (Index i = next_++; i < chunks; i = next_++) (*chunk_)(i);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
      next_ = chunks;
    }
  }

  const pid_t process_ = getpid();
  std::atomic<bool> busy_{false};
  std::atomic<int> size_{1};
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> workers_;
  const std::function<void(Index)>* chunk_ = nullptr;
  std::atomic<Index> next_{0};
  Index chunks_ = 0;  // of the job that workers may still enter
  std::atomic<int> inside_{0};
  std::atomic<unsigned> calls_{0};  // jobs so far, for workers that are awake
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
  const auto chunk = [&](Index i) { body(i * grain, std::min(count, (i + 1) * grain)); };
  Pool::get().run(chunks, std::ref(chunk));  // by reference: a function object of its own would be allocated
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

void parallel_for(Index count, Index grain, const std::function<void(Index, Index)>& body) {
  require(count >= 0 && grain >= 1, "parallel_for over ", count, " in ranges of ", grain);
  cpu::parallel_for(count, grain, body);
}

int num_threads() { return Pool::get().size(); }

void set_num_threads(int count) {
  require(count >= 1 && count <= 1024, "set_num_threads: ", count, " is outside [1, 1024]");
  Pool::get().resize(count);
}

}  // namespace sparlow
