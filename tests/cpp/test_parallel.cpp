// The CPU backend's thread pool.
#include <atomic>
#include <stdexcept>
#include <thread>

#include "cpu/parallel.hpp"
#include "support.hpp"

namespace sparlow::test {
TEST_SUITE_BEGIN("parallel");

namespace {

class Threads {  // a pool size for one test
 public:
  explicit Threads(int count) : before_(num_threads()) { set_num_threads(count); }
  ~Threads() { set_num_threads(before_); }

 private:
  int before_;
};

// Each index is visited exactly once.
bool covers(Index count, Index grain) {
  std::vector<std::atomic<int>> visits(static_cast<std::size_t>(count));
  cpu::parallel_for(count, grain, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) ++visits[static_cast<std::size_t>(i)];
  });
  for (const auto& visit : visits)
    if (visit != 1) return false;
  return true;
}

}  // namespace

TEST_CASE("ranges cover every index once, for any number of threads") {
  for (int threads : {1, 2, 5}) {
    const Threads pool(threads);
    CHECK(num_threads() == threads);
    for (Index count : {0, 1, 2, 7, 1000})
      for (Index grain : {1, 3, 1000, 5000}) CHECK(covers(count, grain));
  }
}

TEST_CASE("many small jobs in a row") {
  const Threads pool(4);
  std::atomic<Index> sum{0};
  for (int job = 0; job < 20000; ++job) cpu::parallel_for(4, 1, [&](Index begin, Index) { sum += begin; });
  CHECK(sum == 20000 * 6);
}

TEST_CASE("a job inside a job runs on its own thread") {
  const Threads pool(3);
  std::atomic<Index> sum{0};
  cpu::parallel_for(20, 1, [&](Index, Index) { cpu::parallel_for(30, 1, [&](Index begin, Index) { sum += begin; }); });
  CHECK(sum == 20 * 435);
}

TEST_CASE("concurrent callers get correct sums") {
  const Threads pool(3);
  std::vector<double> sums(4);
  std::vector<std::thread> callers;
  for (double& sum : sums)
    callers.emplace_back([&sum] {
      for (int repeat = 0; repeat < 500; ++repeat)
        sum += cpu::parallel_sum(100, 7, [](Index begin, Index end) { return static_cast<double>(end - begin); });
    });
  for (std::thread& caller : callers) caller.join();
  for (double sum : sums) CHECK(sum == 50000);
}

TEST_CASE("an exception reaches the caller and the pool goes on") {
  for (int threads : {1, 4}) {
    const Threads pool(threads);
    for (int repeat = 0; repeat < 200; ++repeat) {
      const auto throwing = [&] {
        cpu::parallel_for(50, 1, [&](Index begin, Index) {
          if (begin == repeat % 50) throw std::runtime_error("chunk failed");
        });
      };
      CHECK_THROWS_WITH_AS(throwing(), "chunk failed", std::runtime_error);
    }
    CHECK(covers(100, 3));
  }
}

TEST_CASE("the pool can be resized while others use it") {
  const Threads pool(2);
  std::atomic<bool> stop{false};
  std::atomic<bool> good{true};
  std::thread user([&] {
    while (!stop) good = good && covers(64, 5);
  });
  for (int round = 0; round < 50; ++round) {
    set_num_threads(1 + round % 4);
    good = good && num_threads() == 1 + round % 4;
  }
  stop = true;
  user.join();
  CHECK(good);
}

TEST_CASE("thread counts out of range are refused") {
  refuses("0 is outside [1, 1024]", [] { set_num_threads(0); });
  refuses("1025 is outside [1, 1024]", [] { set_num_threads(1025); });
}

TEST_SUITE_END();
}  // namespace sparlow::test
