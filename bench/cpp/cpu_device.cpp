// The host: OpenBLAS as the dense baseline, in as many threads as the library uses. Its own threads spin while they
// wait, which costs dearly where anything else runs; so a product is also cut into slices for threads that sleep, and
// the faster of the two is the baseline.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>
#include <numeric>
#include <thread>

#include "blas.hpp"
#include "device.hpp"
#include "slices.hpp"
#include "sparlow/backend.hpp"

namespace sparlow::bench {
namespace {

constexpr double kEnough = 1e-3;  // seconds of calls in a row, as a model makes them
constexpr double kSettle = 5e-3;  // until threads that slept are awake and clocks are up
constexpr int kRounds = 3;        // in which the ways take turns

double now() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

std::string model_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}

// Of the last level that the first core sees; 0 where the system does not say.
std::int64_t last_level_bytes() {
  std::int64_t last = 0;
  for (int level = 0; level < 8; ++level) {
    std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(level) + "/size");
    std::int64_t size = 0;
    char unit = 0;
    if (file >> size >> unit) last = std::max(last, size * (unit == 'M' ? 1 << 20 : unit == 'K' ? 1 << 10 : 1));
  }
  return last;
}

// While it lives OpenBLAS has the library's number of threads. Its workers spin for some milliseconds more, which must
// not fall into the measurement of anything else.
class DenseThreads {
 public:
  explicit DenseThreads(bool wanted) : on_(wanted && num_threads() > 1) { set(num_threads()); }
  ~DenseThreads() {
    set(1);
    if (on_) std::this_thread::sleep_for(std::chrono::milliseconds(60));
  }
  DenseThreads(const DenseThreads&) = delete;

 private:
  void set(int count) const {
    if (on_) SPARLOW_BENCH_BLAS(openblas_set_num_threads)(count);
  }
  bool on_;
};

double seconds_of(const Way& way, int calls, int& turn) {
  const double begin = now();
  for (int i = 0; i < calls; ++i) way.run(turn++);
  return (now() - begin) / calls;
}

void run_round(const Way& way, bool own_threads, int repeats, int& turn, std::vector<double>& seconds) {
  const DenseThreads threads(own_threads);
  const double begin = now();
  double once = seconds_of(way, 1, turn);
  while (now() - begin < kSettle) once = std::min(once, seconds_of(way, 1, turn));
  const int calls = calls_for(once, kEnough);
  for (int i = 0; i < repeats; ++i) seconds.push_back(seconds_of(way, calls, turn));
}

std::uint64_t sum_of(const std::uint64_t* begin, const std::uint64_t* end) {
  std::uint64_t sum = 0;
  for (; begin != end; ++begin) sum += *begin;
  return sum;
}

// y, whose rows are `stride` apart, = x w^T
void product(const float* x, const float* w, float* y, Index tokens, Index d_out, Index d_in, Index stride) {
  const int m = static_cast<int>(tokens), n = static_cast<int>(d_out), k = static_cast<int>(d_in);
  if (m == 1) SPARLOW_BENCH_BLAS(cblas_sgemv)(CblasRowMajor, CblasNoTrans, n, k, 1, w, k, x, 1, 0, y, 1);
  else SPARLOW_BENCH_BLAS(cblas_sgemm)
  (CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1, x, k, w, k, 0, y, static_cast<int>(stride));
}

class CpuDevice final : public Device {
 public:
  std::string name() const override { return "cpu"; }
  Json facts() const override {
    return Json()
        .add("name", model_name())
        .add("threads", num_threads())
        .add("cache_bytes", cache_bytes())
        .add("dense", SPARLOW_BENCH_BLAS(openblas_get_config)())
        .add("dense_kernels", SPARLOW_BENCH_BLAS(openblas_get_corename)());
  }
  std::int64_t cache_bytes() const override { return cache_; }
  std::shared_ptr<void> allocate(std::int64_t bytes) override {
    void* memory = std::aligned_alloc(64, (static_cast<std::size_t>(bytes) + 63) / 64 * 64);
    if (memory == nullptr) throw std::bad_alloc();
    return {memory, std::free};
  }
  void upload(void* device, const void* host, std::int64_t bytes) override {
    std::memcpy(device, host, static_cast<std::size_t>(bytes));
  }
  void download(void* host, const void* device, std::int64_t bytes) override { upload(host, device, bytes); }

  std::vector<Spread> measure(const std::vector<Way>& ways, int repeats) override {
    std::vector<std::vector<double>> seconds(ways.size()), sliced(ways.size());
    std::vector<int> turns(ways.size(), 0);
    const int share = (repeats + kRounds - 1) / kRounds;
    for (int round = 0; round < kRounds; ++round)
      for (std::size_t i = 0; i < ways.size(); ++i) {
        run_round(ways[i], ways[i].dense, share, turns[i], seconds[i]);
        if (!ways[i].dense || num_threads() == 1) continue;
        slices_ = std::make_unique<Slices>(num_threads());
        run_round(ways[i], false, share, turns[i], sliced[i]);
        slices_.reset();
      }
    std::vector<Spread> out;
    for (std::size_t i = 0; i < ways.size(); ++i) {
      out.push_back(spread(std::move(seconds[i])));
      if (sliced[i].empty()) continue;
      const Spread other = spread(std::move(sliced[i]));
      if (other.median < out[i].median) out[i] = other;
    }
    return out;
  }

  std::string dense_name(DType) const override { return "OpenBLAS f32"; }
  DType dense_dtype(DType) const override { return DType::f32; }
  void dense(const void* x, const void* w, void* y, Index tokens, Index d_out, Index d_in, DType) override {
    const auto *a = static_cast<const float*>(x), *b = static_cast<const float*>(w);
    auto* c = static_cast<float*>(y);
    if (slices_ == nullptr) return product(a, b, c, tokens, d_out, d_in, d_out);
    if (tokens > d_out)
      slices_->run(tokens, [&](Index begin, Index end) {
        product(a + begin * d_in, b, c + begin * d_out, end - begin, d_out, d_in, d_out);
      });
    else
      slices_->run(d_out, [&](Index begin, Index end) {
        product(a, b + begin * d_in, c + begin, tokens, end - begin, d_in, d_out);
      });
  }
  void invert(void* a, Index size) override {
    const int n = static_cast<int>(size);
    int info = 0;
    SPARLOW_BENCH_BLAS(spotrf_)("L", &n, static_cast<float*>(a), &n, &info, 1);
    if (info == 0) SPARLOW_BENCH_BLAS(spotri_)("L", &n, static_cast<float*>(a), &n, &info, 1);
    if (info != 0) fail(ErrorCode::numerical, "LAPACK could not invert the matrix (info ", info, ")");
  }
  void orthonormalise(void* a, Index rows, Index cols) override {
    const int m = static_cast<int>(rows), n = static_cast<int>(cols), lwork = n * 64;
    std::vector<float> tau(static_cast<std::size_t>(n)), work(static_cast<std::size_t>(lwork));
    int info = 0;
    SPARLOW_BENCH_BLAS(sgeqrf_)(&m, &n, static_cast<float*>(a), &m, tau.data(), work.data(), &lwork, &info);
    SPARLOW_BENCH_BLAS(sorgqr_)
    (&m, &n, &n, static_cast<float*>(a), &m, tau.data(), work.data(), &lwork, &info);
  }

  Spread read_seconds(std::int64_t bytes) override {
    const std::vector<std::uint64_t> memory(static_cast<std::size_t>(bytes / 8), 1);
    const auto count = static_cast<std::size_t>(num_threads());
    std::vector<std::uint64_t> sums(count);
    const auto read = [&](int) {
      std::vector<std::thread> threads;
      for (std::size_t i = 0; i < count; ++i)
        threads.emplace_back([&, i] {
          sums[i] = sum_of(&memory[memory.size() * i / count], memory.data() + memory.size() * (i + 1) / count);
        });
      for (std::thread& thread : threads) thread.join();
    };
    const Spread seconds = measure({{read}}, 9)[0];
    if (std::accumulate(sums.begin(), sums.end(), std::uint64_t{0}) != memory.size())
      fail(ErrorCode::internal, "a sum of ones is wrong");
    return seconds;
  }

 private:
  std::int64_t cache_ = last_level_bytes();
  std::unique_ptr<Slices> slices_;  // while products are cut into slices
};

}  // namespace

std::unique_ptr<Device> make_cpu_device() { return std::make_unique<CpuDevice>(); }

}  // namespace sparlow::bench
