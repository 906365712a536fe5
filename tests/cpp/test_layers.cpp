// Layers on the CPU: every instruction set, type and format against products in double precision; threads, memory.
#include <array>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <thread>

#include "cpu/formats/convert.hpp"
#include "cpu/formats/linear_rows.hpp"
#include "sparlow/format.hpp"
#include "support.hpp"

namespace {
thread_local bool counting = false;
thread_local int allocations = 0;
}  // namespace

void* operator new(std::size_t size) {
  if (counting) ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace sparlow::test {
TEST_SUITE_BEGIN("layers");

namespace {

using cpu::Bf16;
using cpu::F16;
using cpu::to_float;

template <typename T>
constexpr DType kType = DType::f32;
template <>
constexpr DType kType<Bf16> = DType::bf16;
template <>
constexpr DType kType<F16> = DType::f16;

struct Aligned {
  void* memory;
  std::int64_t bytes;
  explicit Aligned(std::int64_t bytes)
      : memory(std::aligned_alloc(64, static_cast<std::size_t>(bytes + 127) / 64 * 64)), bytes(bytes) {}
  ~Aligned() { std::free(memory); }
};

// A random layer in vectors of exactly the right size, so that a sanitizer sees reads past the end.
template <typename T>
struct Sample {
  LayerShape shape;
  std::vector<T> s, values, u, v, bias;
  std::vector<std::uint8_t> meta;
  std::mt19937 engine{7};

  Sample(Format format, Index d_out, Index d_in, Index rank, bool with_bias) {
    shape = {format, kType<T>, d_out, d_in, rank, d_out * d_in};
    s = noise(d_out * d_in, 1.0f);
    u = noise(d_out * rank, 0.5f), v = noise(rank * d_in, 0.5f);
    bias = noise(with_bias ? d_out : 0, 1.0f);
    for (std::size_t i = 0; i < s.size(); ++i)
      if (format == Format::nm24 ? (i + i / 4) % 4 < 2 : format == Format::bitmap && engine() % 3 == 0)
        std::memset(&s[i], 0, sizeof(T));
    pack();
  }

  std::vector<T> noise(Index count, float scale) {
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<T> out(static_cast<std::size_t>(count));
    for (T& value : out) cpu::from_float(normal(engine), value);
    return out;
  }

  void pack() {
    const Index d_out = shape.d_out, d_in = shape.d_in;
    meta.resize(static_cast<std::size_t>(d_out * meta_cols(d_in)));
    if (shape.format == Format::nm24) {
      values.resize(s.size() / 2);
      nm24_pack(s.data(), d_out, d_in, sizeof(T), values.data(), meta.data());
    } else if (shape.format == Format::bitmap) {
      values.resize(static_cast<std::size_t>(bitmap_count(s.data(), d_out, d_in, sizeof(T))));
      bitmap_pack(s.data(), d_out, d_in, sizeof(T), static_cast<Index>(values.size()), values.data(), meta.data());
    } else {
      values = s;
    }
    shape.stored = static_cast<Index>(values.size());
  }

  LayerTensors tensors() const {
    return {values.data(), meta.data(), u.data(), v.data(), bias.empty() ? nullptr : bias.data()};
  }

  // y in double precision, and the sum of magnitudes that bounds its rounding.
  std::pair<double, double> expected(const std::vector<T>& x, Index token, Index row) const {
    double sum = bias.empty() ? 0 : to_float(bias[static_cast<std::size_t>(row)]), size = std::abs(sum);
    for (Index j = 0; j < shape.d_in; ++j) {
      double w = to_float(s[static_cast<std::size_t>(row * shape.d_in + j)]), magnitude = std::abs(w);
      for (Index k = 0; k < shape.rank; ++k) {
        const double term = double{to_float(u[static_cast<std::size_t>(row * shape.rank + k)])} *
                            to_float(v[static_cast<std::size_t>(k * shape.d_in + j)]);
        w += term, magnitude += std::abs(term);
      }
      const double input = to_float(x[static_cast<std::size_t>(token * shape.d_in + j)]);
      sum += w * input, size += magnitude * std::abs(input);
    }
    return {sum, size};
  }
};

template <typename T>
std::vector<T> run(const Layer& layer, const std::vector<T>& x) {
  const Index tokens = static_cast<Index>(x.size()) / layer.shape().d_in;
  const Aligned workspace(layer.workspace_bytes(tokens));
  std::vector<T> y(static_cast<std::size_t>(tokens * layer.shape().d_out));
  layer.forward(x.data(), y.data(), tokens, workspace.memory, workspace.bytes, 0);
  return y;
}

template <typename T>
void check(const cpu::RowKernels& kernels, Format format, Index d_out, Index d_in, Index rank, Index tokens) {
  CAPTURE(kernels.name);
  CAPTURE(static_cast<int>(format));
  CAPTURE(d_out);
  CAPTURE(d_in);
  CAPTURE(tokens);
  Sample<T> sample(format, d_out, d_in, rank, tokens % 2 == 1);
  const std::vector<T> x = sample.noise(tokens * d_in, 1.0f);
  const auto layer = cpu::make_layer_with(kernels, sample.shape, sample.tensors());
  const std::vector<T> y = run(*layer, x);
  const double unit = kType<T> == DType::bf16 ? 0x1p-8 : kType<T> == DType::f16 ? 0x1p-11 : 0x1p-23;
  for (Index t = 0; t < tokens; t += 1 + tokens / 8)
    for (Index i = 0; i < d_out; ++i) {
      const auto [exact, size] = sample.expected(x, t, i);
      const double error = std::abs(to_float(y[static_cast<std::size_t>(t * d_out + i)]) - exact);
      REQUIRE(error <= 0.6 * unit * (std::abs(exact) + size) + 1e-6);
    }
}

std::vector<const cpu::RowKernels*> available() {
  std::vector<const cpu::RowKernels*> out;
  for (const cpu::RowKernels* kernels : {cpu::portable_rows(), cpu::avx2_rows(), cpu::avx512_rows()})
    if (kernels != nullptr) out.push_back(kernels);
  return out;
}

}  // namespace

TEST_CASE("every instruction set, type and format") {
  for (const cpu::RowKernels* kernels : available())
    for (const Format format : {Format::nm24, Format::bitmap, Format::dense})
      for (const auto& [d_out, d_in, rank] : {std::array<Index, 3>{7, 12, 0}, {5, 4, 3}, {9, 4164, 5}, {70, 96, 40}})
        for (const Index tokens : {1, 2, 7, 9, 67}) {
          check<Bf16>(*kernels, format, d_out, d_in, rank, tokens);
          check<F16>(*kernels, format, d_out, d_in, rank, tokens);
          check<float>(*kernels, format, d_out, d_in, rank, tokens);
        }
  for (const cpu::RowKernels* kernels : available()) check<Bf16>(*kernels, Format::bitmap, 6, 13, 2, 3);
}

TEST_CASE("numbers of 16 bits are rounded to nearest even") {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const F16 half{static_cast<std::uint16_t>(bits)};
    F16 back;
    cpu::from_float(to_float(half), back);
    if ((bits & 0x7fff) <= 0x7c00) CHECK(back.bits == half.bits);
  }
  const auto half = [](float x) {
    F16 out;
    cpu::from_float(x, out);
    return out.bits;
  };
  CHECK(half(65519.0f) == 0x7bff);
  CHECK(half(65520.0f) == 0x7c00);
  CHECK(half(0x1p-25f) == 0);
  CHECK(half(0x1.8p-25f) == 1);
  CHECK(half(-0x1.002p0f) == 0xbc00);
  CHECK((half(std::nanf("")) & 0x7fff) > 0x7c00);
}

TEST_CASE("sixteen threads share a layer and get the same bits") {
  Sample<Bf16> sample(Format::bitmap, 256, 512, 16, true);
  const auto layer = make_cpu_layer(sample.shape, sample.tensors());
  const std::vector<Bf16> x = sample.noise(12 * 512, 1.0f);
  const std::vector<Bf16> first = run(*layer, x);
  std::array<int, 16> differ{};
  std::vector<std::thread> threads;
  for (int& count : differ)
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) {
        const std::vector<Bf16> y = run(*layer, x);
        count += std::memcmp(y.data(), first.data(), y.size() * sizeof(Bf16)) != 0;
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const int count : differ) CHECK(count == 0);
}

TEST_CASE("forward allocates nothing") {
  Sample<float> sample(Format::nm24, 512, 1024, 8, true);
  const auto layer = make_cpu_layer(sample.shape, sample.tensors());
  const std::vector<float> x = sample.noise(100 * 1024, 1.0f);
  std::vector<float> y(100 * 512);
  const Aligned workspace(layer->workspace_bytes(100));
  allocations = 0, counting = true;
  layer->forward(x.data(), y.data(), 100, workspace.memory, workspace.bytes, 0);
  counting = false;
  CHECK(allocations == 0);
}

TEST_CASE("what cannot be a layer is refused") {
  Sample<Bf16> sample(Format::nm24, 4, 12, 1, false);
  const auto make = [&] { return make_cpu_layer(sample.shape, sample.tensors()); };
  sample.meta[3] = 0xf4;
  CHECK_THROWS_WITH_AS(make(), doctest::Contains("illegal 2:4 positions 244 in meta[1, 1]"), Error);
  sample.meta[3] = 0x04, sample.meta[2] = 0x40;
  CHECK_THROWS_WITH_AS(make(), doctest::Contains("meta[1, 0]"), Error);
  sample.shape.stored = 7;
  CHECK_THROWS_WITH_AS(make(), doctest::Contains("cannot store 7 values"), Error);
  Sample<Bf16> bits(Format::bitmap, 3, 13, 0, false);
  bits.meta[1] |= 0x80;
  CHECK_THROWS_WITH_AS(make_cpu_layer(bits.shape, bits.tensors()), doctest::Contains("beyond column 12 in row 0"),
                       Error);
  bits.meta[1] &= 0x1f, bits.meta[0] = 0;
  CHECK_THROWS_WITH_AS(make_cpu_layer(bits.shape, bits.tensors()), doctest::Contains("the bitmap marks"), Error);
}

TEST_CASE("a call with too little memory is refused") {
  Sample<Bf16> sample(Format::dense, 4, 8, 1, false);
  const auto layer = make_cpu_layer(sample.shape, sample.tensors());
  const std::vector<Bf16> x = sample.noise(8, 1.0f);
  std::vector<Bf16> y(4);
  const Aligned workspace(layer->workspace_bytes(1));
  const auto forward = [&](void* memory, std::int64_t bytes) {
    layer->forward(x.data(), y.data(), 1, memory, bytes, 0);
  };
  CHECK_THROWS_WITH_AS(forward(workspace.memory, 10), doctest::Contains("the workspace has 10 bytes, 1 tokens need"),
                       Error);
  CHECK_THROWS_WITH_AS(forward(nullptr, workspace.bytes), doctest::Contains("multiple of 64"), Error);
  CHECK_THROWS_WITH_AS(layer->forward(nullptr, y.data(), 1, nullptr, 0, 0), doctest::Contains("no memory"), Error);
}

TEST_SUITE_END();
}  // namespace sparlow::test
