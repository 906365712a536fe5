// nm24_forward against float64 on the host, on shapes chosen to break it. Needs a GPU; no torch.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../../cuda/kernels/nm24.hpp"

using namespace sparlow::kernels;

namespace {

int failures = 0, checks = 0;
bool quick = false;  // for compute-sanitizer
Nm24Device device{};

#define CHECK(call)                                                                          \
  do {                                                                                       \
    const cudaError_t status_ = (call);                                                      \
    if (status_ != cudaSuccess) {                                                            \
      std::printf("%s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(status_)); \
      std::_Exit(2);                                                                         \
    }                                                                                        \
  } while (0)

template <typename T>
T narrow(float x) {
  if constexpr (std::is_same_v<T, __half>) return __float2half(x);
  else return __float2bfloat16(x);
}
float widen(__half x) { return __half2float(x); }
float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
struct Buffer {
  T* data = nullptr;
  std::size_t size = 0;
  explicit Buffer(std::size_t n) : size(n) { CHECK(cudaMalloc(&data, (n + 64) * sizeof(T))); }
  explicit Buffer(const std::vector<T>& host) : Buffer(host.size()) {
    CHECK(cudaMemcpy(data, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { cudaFree(data); }
  std::vector<T> host(std::size_t extra = 0) const {
    std::vector<T> out(size + extra);
    CHECK(cudaMemcpy(out.data(), data, out.size() * sizeof(T), cudaMemcpyDeviceToHost));
    return out;
  }
};

// One layer in the checkpoint's layout, with groups of two, one and no non-zeros, -0.0 and whole zero rows.
template <typename T>
struct Checkpoint {
  int rows, d_in, rank;
  std::vector<T> values, u, v;
  std::vector<std::uint8_t> meta;

  Checkpoint(int rows, int d_in, int rank, std::mt19937& random)
      : rows(rows),
        d_in(d_in),
        rank(rank),
        values(std::size_t(rows) * d_in / 2),
        u(std::size_t(rows) * rank),
        v(std::size_t(rank) * d_in),
        meta(std::size_t(rows) * ((d_in + 7) / 8)) {
    std::normal_distribution<float> normal(0.f, 1.f);
    constexpr int legal[6] = {0x4, 0x8, 0xC, 0x9, 0xD, 0xE};
    for (int r = 0; r < rows; ++r)
      for (int g = 0; g < d_in / 4; ++g) {
        meta[std::size_t(r) * ((d_in + 7) / 8) + g / 2] |= legal[random() % 6] << (4 * (g % 2));
        for (int i = 0; i < 2; ++i) {
          const unsigned kind = random() % 16;
          const float value = r % 37 == 5 || kind == 0 ? 0.f : kind == 1 ? -0.f : normal(random);
          values[std::size_t(r) * (d_in / 2) + 2 * g + i] = narrow<T>(value);
        }
      }
    for (auto& e : u) e = narrow<T>(normal(random));
    for (auto& e : v) e = narrow<T>(normal(random) * .25f);
  }
  double sparse(int row, const float* x) const {
    double sum = 0;
    for (int g = 0; g < d_in / 4; ++g) {
      const int byte = meta[std::size_t(row) * ((d_in + 7) / 8) + g / 2], nibble = g % 2 ? byte >> 4 : byte & 15;
      const T* pair = &values[std::size_t(row) * (d_in / 2) + 2 * g];
      sum += double(widen(pair[0])) * x[4 * g + (nibble & 3)] + double(widen(pair[1])) * x[4 * g + (nibble >> 2)];
    }
    return sum;
  }
};

template <typename T>
std::vector<float> widen(const std::vector<T>& from) {
  std::vector<float> to;
  for (const T& e : from) to.push_back(widen(e));
  return to;
}

template <typename T>
struct Layer {
  Nm24Shape shape;
  std::vector<Checkpoint<T>> parts;
  std::vector<T> bias;
  Nm24Bytes bytes;
  Buffer<unsigned char> weights, u, v;

  Layer(const std::vector<int>& rows, int d_in, const std::vector<int>& ranks, std::mt19937& random)
      : shape(make_shape(rows, d_in, ranks)),
        bytes(nm24_bytes(shape)),
        weights(bytes.weights),
        u(bytes.u + 16),
        v(bytes.v + 16) {
    for (std::size_t p = 0; p < rows.size(); ++p) {
      parts.emplace_back(rows[p], d_in, ranks[p], random);
      const Checkpoint<T>& c = parts.back();
      Buffer<T> values(c.values), from_u(c.u), from_v(c.v);
      Buffer<std::uint8_t> meta(c.meta);
      CHECK(nm24_pack(shape, static_cast<int>(p), {values.data, meta.data, from_u.data, from_v.data, c.rank},
                      weights.data, u.data, v.data, nullptr));
      CHECK(cudaDeviceSynchronize());
    }
    for (int r = 0; r < shape.d_out(); ++r) bias.push_back(narrow<T>(float(int(random() % 200) - 100) * .01f));
  }
  static Nm24Shape make_shape(const std::vector<int>& rows, int d_in, const std::vector<int>& ranks) {
    Nm24Shape s{};
    s.d_in = d_in, s.parts = static_cast<int>(rows.size());
    for (std::size_t p = 0; p < rows.size(); ++p) s.rows[p] = rows[p], s.rank = std::max(s.rank, ranks[p]);
    return s;
  }
  std::vector<double> reference(const std::vector<T>& from_x, int tokens, bool with_bias) const {
    const std::vector<float> x = widen(from_x);
    std::vector<double> y(std::size_t(tokens) * shape.d_out());
    int first = 0;
    for (const Checkpoint<T>& c : parts) {
      const std::vector<float> u32 = widen(c.u), v32 = widen(c.v);
      for (int n = 0; n < tokens; ++n) {
        const float* row = &x[std::size_t(n) * shape.d_in];
        std::vector<double> t(c.rank);
        for (int k = 0; k < c.rank; ++k)
          for (int j = 0; j < c.d_in; ++j) t[k] += double(v32[std::size_t(k) * c.d_in + j]) * row[j];
        for (int r = 0; r < c.rows; ++r) {
          double sum = c.sparse(r, row) + (with_bias ? widen(bias[first + r]) : 0.);
          for (int k = 0; k < c.rank; ++k) sum += double(u32[std::size_t(r) * c.rank + k]) * t[k];
          y[std::size_t(n) * shape.d_out() + first + r] = sum;
        }
      }
      first += c.rows;
    }
    return y;
  }
};

void fail(const std::string& what, double value) {
  ++failures;
  std::printf("FAIL %s: %g\n", what.c_str(), value);
}

template <typename T>
std::vector<T> make_x(int tokens, int d_in, std::mt19937& random) {
  std::normal_distribution<float> normal(0.f, 1.f);
  std::vector<T> x(std::size_t(tokens) * d_in);
  for (auto& e : x) e = narrow<T>(normal(random));
  return x;
}

// Shared by all layers, as in a model.
void* workspace(std::size_t bytes) {
  static const Buffer<unsigned char> buffer(64 << 20);
  static bool zero = false;
  if (!zero) CHECK(cudaMemset(buffer.data, 0, buffer.size));
  zero = true;
  if (bytes > buffer.size) std::printf("workspace of %zu bytes\n", bytes), std::exit(2);
  return buffer.data;
}

void* scratch(std::size_t bytes) {
  static const Buffer<unsigned char> buffer(std::vector<unsigned char>(64 << 20, 0xff));
  if (bytes > buffer.size) std::printf("scratch of %zu bytes\n", bytes), std::exit(2);
  return buffer.data;
}

template <typename T>
struct Run {
  Layer<T>& layer;
  int tokens;
  bool with_bias;
  Nm24Plan plan;
  std::size_t x_offset;  // elements by which x misses a multiple of 16 bytes
  Buffer<T> bias, x, y;

  Run(Layer<T>& layer, const std::vector<T>& from, int tokens, bool with_bias, const Nm24Plan& plan,
      std::size_t x_offset)
      : layer(layer),
        tokens(tokens),
        with_bias(with_bias),
        plan(plan),
        x_offset(x_offset),
        bias(layer.bias),
        x(from.size()),
        y(std::size_t(tokens) * layer.shape.d_out()) {
    CHECK(cudaMemcpy(x.data + x_offset, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  void launch(cudaStream_t stream, bool overlap = false) {
    const Nm24Call call{layer.weights.data,
                        layer.u.data,
                        layer.v.data,
                        with_bias ? bias.data : nullptr,
                        x.data + x_offset,
                        y.data,
                        workspace(plan.workspace),
                        scratch(plan.scratch),
                        tokens,
                        std::is_same_v<T, __half> ? Half::float16 : Half::bfloat16,
                        overlap};
    CHECK(nm24_forward(layer.shape, plan, call, stream));
  }
  // With sixteen elements behind y, which must stay as they are.
  std::vector<T> result(bool overlap = false) {
    CHECK(cudaMemset(y.data, 0xff, (y.size + 16) * sizeof(T)));
    launch(nullptr, overlap);
    CHECK(cudaDeviceSynchronize());
    return y.host(16);
  }
};

template <typename T>
double error_of(const std::vector<T>& y, const std::vector<double>& want) {
  double difference = 0, norm = 1e-300;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double d = widen(y[i]) - want[i];
    difference += d * d, norm += want[i] * want[i];
  }
  return std::sqrt(difference / norm);
}

template <typename T>
void check(Layer<T>& layer, const std::vector<T>& x, const std::vector<double>& want, int tokens, bool with_bias,
           const Nm24Plan& plan, std::size_t x_offset, const std::string& what) {
  ++checks;
  Run<T> run(layer, x, tokens, with_bias, plan, x_offset);
  const std::vector<T> y = run.result(), again = run.result();
  // Of many results the mean rounding error of y, of a few the largest that rounding can make.
  const double mean = std::is_same_v<T, __half> ? 3.2e-4 : 2.4e-3,
               largest = std::is_same_v<T, __half> ? 4.9e-4 : 3.9e-3;
  const double error = error_of(y, want), limit = want.size() < 64 ? largest : mean;
  if (!(error < limit)) fail(what, error);
  if (std::memcmp(y.data(), again.data(), y.size() * sizeof(T)) != 0) fail(what + " twice", 0);
  for (std::size_t i = want.size(); i < y.size(); ++i)
    if (std::memcmp(&y[i], "\xff\xff", 2) != 0) return fail(what + " wrote behind y", double(i - want.size()));
}

// How t is made: before the tiles, or beside them by blocks of so many tokens and splits.
struct TBeside {
  int tokens, splits;
};
constexpr TBeside kTBeside[] = {{0, 0}, {256, 1}, {192, 2}, {128, 4}, {128, 8}};

// Blocks that share x have rows of one part.
bool fits(const Nm24Shape& shape, int variant) {
  for (int p = 0; p + 1 < shape.parts; ++p)
    if (shape.rows[p] % (kManyRows * kManyConfigs[variant].cluster) != 0) return false;
  return true;
}

// The first rows by one configuration, the rest by every other.
template <typename T>
void test_two_launches(Layer<T>& layer, const std::vector<T>& x, const std::vector<double>& want, int tokens,
                       bool with_bias, Nm24Plan plan, const std::string& name) {
  if (layer.shape.d_out() <= 2 * kManyRows) return;
  plan.head_tiles = 2, plan.clusters = plan.late = 0;  // blocks that share x: none of them in both launches
  for (plan.rest_variant = quick ? plan.variant : 0; plan.rest_variant < kManyConfigCount; ++plan.rest_variant) {
    if (fits(layer.shape, plan.rest_variant))
      check<T>(layer, x, want, tokens, with_bias, plan, 0, name + " rest by " + std::to_string(plan.rest_variant));
  }
}

// Every tile of the kernel for many tokens, also where the planner would choose another.
template <typename T>
void test_many(Layer<T>& layer, const std::vector<T>& x, const std::vector<double>& want, int tokens, bool with_bias,
               const std::string& what) {
  const Nm24Shape& shape = layer.shape;
  if (device.arch != 90 || shape.d_in % 8 != 0) return;
  for (int variant = 0; variant < kManyConfigCount; ++variant) {
    if (!fits(shape, variant)) continue;
    Nm24Plan plan{};
    plan.kernel = Nm24Kernel::many, plan.variant = variant;
    plan.scratch = std::size_t(2) * tokens * shape.parts * many_t_columns(shape);
    const std::string name = what + " many " + std::to_string(variant);
    const bool split = kManyConfigs[variant].splits > 1;
    for (int clusters : {0, 3})  // one tile a cluster, or one after the other
      for (const TBeside& t : kTBeside) {
        if (quick && (t.splits == 8) != (clusters > 0)) continue;
        if (clusters > 0 && split) continue;  // these have one tile each
        plan.clusters = clusters, plan.t_splits = t.splits, plan.t_tokens = t.tokens, plan.late = clusters / 2;
        check<T>(layer, x, want, tokens, with_bias, plan, 0,
                 name + " clusters " + std::to_string(clusters) + " t " + std::to_string(t.tokens) + " / " +
                     std::to_string(t.splits));
      }
    if (!split) test_two_launches<T>(layer, x, want, tokens, with_bias, plan, name);
  }
}

// All plans that can run: the planner's, the portable one, and more splits than it would choose.
template <typename T>
void test(const std::vector<int>& rows, int d_in, const std::vector<int>& ranks, const std::vector<int>& tokens,
          std::mt19937& random) {
  Layer<T> layer(rows, d_in, ranks, random);
  for (int n : tokens) {
    const std::vector<T> x = make_x<T>(n, d_in, random);
    const bool with_bias = random() % 2;
    const std::vector<double> want = layer.reference(x, n, with_bias);
    const std::string what = std::string(std::is_same_v<T, __half> ? "f16 " : "bf16 ") + std::to_string(rows[0]) +
                             (rows.size() > 1 ? "+" : "") + "x" + std::to_string(d_in) + " rank " +
                             std::to_string(ranks[0]) + " tokens " + std::to_string(n);
    Nm24Plan plan = nm24_plan(layer.shape, n, true, device);
    check<T>(layer, x, want, n, with_bias, plan, 0, what + " " + nm24_name(plan));
    test_many<T>(layer, x, want, n, with_bias, what);
    if (plan.kernel == Nm24Kernel::wide)
      for (plan.splits = 1; plan.splits <= 4; plan.splits *= 2)
        check<T>(layer, x, want, n, with_bias, plan, 0, what + " splits " + std::to_string(plan.splits));
    plan = nm24_plan(layer.shape, n, true, {80, device.multiprocessors});
    check<T>(layer, x, want, n, with_bias, plan, 0, what + " portable");
    plan = nm24_plan(layer.shape, n, false, device);
    check<T>(layer, x, want, n, with_bias, plan, 4, what + " x at 8 bytes");
  }
}

// The checkpoint comes back bit for bit.
void test_unpack(int rows, int d_in, int rank, std::mt19937& random) {
  using T = __nv_bfloat16;
  Layer<T> layer({rows}, d_in, {rank}, random);
  const Checkpoint<T>& c = layer.parts[0];
  Buffer<T> values(c.values.size()), u(c.u.size()), v(c.v.size());
  Buffer<std::uint8_t> meta(c.meta.size());
  CHECK(nm24_unpack(layer.shape, layer.weights.data, layer.u.data, layer.v.data,
                    {values.data, meta.data, u.data, v.data}, nullptr));
  const auto same = [](const auto& buffer, const auto& want) {
    const auto got = buffer.host();
    return std::memcmp(got.data(), want.data(), want.size() * sizeof want[0]) == 0;
  };
  ++checks;
  if (!same(values, c.values) || !same(meta, c.meta) || !same(u, c.u) || !same(v, c.v))
    fail("unpack " + std::to_string(rows) + " x " + std::to_string(d_in), rank);
}

// NaN in one token reaches what it multiplies and no other token.
void test_nan(std::mt19937& random) {
  using T = __nv_bfloat16;
  Layer<T> layer({96}, 576, {16}, random);
  for (int tokens : {3, 17, 64, 200}) {
    std::vector<T> x = make_x<T>(tokens, 576, random);
    x[576 + 77] = narrow<T>(std::numeric_limits<float>::quiet_NaN());
    const std::vector<double> want = layer.reference(x, tokens, false);
    Run<T> run(layer, x, tokens, false, nm24_plan(layer.shape, tokens, true, device), 0);
    const std::vector<T> y = run.result();
    ++checks;
    for (std::size_t i = 0; i < want.size(); ++i)
      if (std::isnan(want[i]) != std::isnan(widen(y[i])))
        return fail("NaN, tokens " + std::to_string(tokens), double(i));
  }
}

// Blocks that do one tile after the other give the same bits however they are timed.
void test_repeat(std::mt19937& random) {
  using T = __nv_bfloat16;
  constexpr int tokens = 4097, launches = 60;
  if (device.arch != 90) return;
  Layer<T> layer({256}, 768, {64}, random);
  const std::vector<T> x = make_x<T>(tokens, 768, random);
  for (int variant = 0; variant < kManyConfigCount; ++variant) {
    if (kManyConfigs[variant].splits > 1) continue;
    Nm24Plan plan{};
    plan.kernel = Nm24Kernel::many, plan.variant = variant, plan.clusters = 40, plan.t_splits = 2, plan.t_tokens = 256;
    plan.scratch = std::size_t(2) * tokens * many_t_columns(layer.shape);
    Run<T> run(layer, x, tokens, false, plan, 0);
    const std::vector<T> first = run.result();
    ++checks;
    for (int i = 0; i < launches; ++i) {
      const std::vector<T> again = run.result();
      if (std::memcmp(again.data(), first.data(), first.size() * sizeof(T)) != 0)
        return fail("repeated, many " + std::to_string(variant), i);
    }
  }
}

// A graph of overlapping launches, each reading what the one before wrote, gives the bits of launches one by one.
void test_chain(int tokens, std::mt19937& random) {
  using T = __nv_bfloat16;
  constexpr int d = 512, length = 6;
  ++checks;
  Layer<T> layer({d}, d, {48}, random);
  std::vector<T> x = make_x<T>(tokens, d, random);
  for (auto& e : x) e = narrow<T>(widen(e) * .01f);
  const Nm24Plan plan = nm24_plan(layer.shape, tokens, true, device);
  Run<T> a(layer, x, tokens, false, plan, 0), b(layer, x, tokens, false, plan, 0);
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  const auto chain = [&](bool overlap) {
    for (int i = 0; i < length; ++i) {
      Run<T>& run = i % 2 ? b : a;
      std::swap(run.y.data, (i % 2 ? a : b).x.data);  // write into the other's x
      run.launch(stream, overlap);
      std::swap(run.y.data, (i % 2 ? a : b).x.data);
    }
  };
  const auto restart = [&] {
    CHECK(cudaStreamSynchronize(stream));
    CHECK(cudaMemcpy(a.x.data, x.data(), x.size() * sizeof(T), cudaMemcpyHostToDevice));
  };
  restart();
  chain(false);
  CHECK(cudaStreamSynchronize(stream));
  const std::vector<T> one_by_one = a.x.host();
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  chain(true);
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&exec, graph, 0));
  for (int i = 0; i < 20; ++i) {
    restart();
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    const std::vector<T> y = a.x.host();
    if (std::memcmp(y.data(), one_by_one.data(), y.size() * sizeof(T)) != 0) return fail("chain in a graph", i);
  }
  CHECK(cudaGraphExecDestroy(exec));
  CHECK(cudaGraphDestroy(graph));
  CHECK(cudaStreamDestroy(stream));
}

}  // namespace

int main(int argc, char**) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) return std::printf("no CUDA device: skipped\n"), 0;
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0));
  device = {10 * properties.major + properties.minor, properties.multiProcessorCount};
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  std::mt19937 random(7);
  quick = argc > 1;
  const std::vector<int> tokens = quick ? std::vector<int>{1, 17, 64, 65, 129, 193}
                                        : std::vector<int>{1, 3, 8, 9, 16, 17, 33, 64, 65, 96, 129, 192, 193, 300, 384};
  test<__nv_bfloat16>({70}, 260, {5}, tokens, random);
  test<__nv_bfloat16>({64, 128, 40}, 576, {16, 64, 5}, tokens, random);
  test<__half>({333}, 1032, {64}, quick ? std::vector<int>{3, 40} : tokens, random);
  if (!quick) {
    for (int rank : {0, 1, 200}) test<__nv_bfloat16>({160}, 1152, {rank}, tokens, random);
    test<__nv_bfloat16>({1}, 4, {1}, tokens, random);
    test<__nv_bfloat16>({256}, 4096, {64}, {1, 8, 16, 64}, random);
    test<__half>({512, 128, 128}, 896, {32, 32, 32}, tokens, random);
    test<__nv_bfloat16>({128, 70}, 712, {64, 80}, {1025, 4097}, random);
    test<__nv_bfloat16>({512, 256}, 1024, {64, 64}, {193, 1025}, random);
    test_unpack(70, 260, 5, random), test_unpack(1, 4, 1, random), test_unpack(576, 1536, 64, random);
    test_nan(random);
    test_repeat(random);
    for (int n : {1, 16, 64, 200}) test_chain(n, random);
  }
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures ? 1 : 0;
}
