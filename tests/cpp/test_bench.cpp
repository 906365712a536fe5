// What the microbenchmarks share: command lines, shapes, statistics, JSON, random layers, timing on the CPU.
#include <algorithm>
#include <cmath>
#include <limits>

#include "device.hpp"
#include "matrices.hpp"
#include "options.hpp"
#include "shapes.hpp"
#include "slices.hpp"
#include "support.hpp"
#include "tensors.hpp"
#include "verify.hpp"

using namespace sparlow;
using namespace sparlow::bench;
using test::refuses;

TEST_SUITE_BEGIN("bench");

namespace {

const std::vector<Option> kKnown{{"tokens", "1,8", ""}, {"rank", "64", ""}, {"out", "", ""}, {"json", nullptr, ""}};

Options options(const std::vector<std::string>& words) { return {kKnown, words}; }

}  // namespace

TEST_CASE("options have defaults, two spellings and flags") {
  const Options none = options({});
  CHECK(none.numbers("tokens", 1, 100) == std::vector<Index>{1, 8});
  CHECK(none.text("out").empty());
  CHECK_FALSE(none.flag("json"));
  const Options some = options({"--tokens", "3", "--rank=5", "--json", "--out=a=b"});
  CHECK(some.numbers("tokens", 1, 100) == std::vector<Index>{3});
  CHECK(some.number("rank", 0, 64) == 5);
  CHECK(some.text("out") == "a=b");
  CHECK(some.flag("json"));
}

TEST_CASE("a mistake in an option is named") {
  refuses("unknown option --token; did you mean --tokens?", [] { options({"--token", "1"}); });
  refuses("'tokens' is no option", [] { options({"tokens"}); });
  refuses("--rank needs a value, such as 64", [] { options({"--rank"}); });
  refuses("--json is a flag and takes no value", [] { options({"--json=1"}); });
  refuses("--rank is given twice", [] { options({"--rank", "1", "--rank", "2"}); });
  refuses("--tokens '1,,2': a value between commas is missing",
          [] { options({"--tokens", "1,,2"}).numbers("tokens", 1, 9); });
  refuses("--tokens: '0' is not a whole number from 1 to 9",
          [] { options({"--tokens", "0"}).numbers("tokens", 1, 9); });
  for (const char* text : {"-1", "1.5", "1e3", "", " 1", "99999999999999999999"})
    refuses("is not a whole number", [&] { whole_number(text, "n", 0, 100); });
}

TEST_CASE("models have the layers of their config") {
  const std::vector<LayerSize> layers = model_layers("llama-3-8b");
  REQUIRE(layers.size() == 7);
  Index parameters = 0;
  for (const LayerSize& layer : layers) parameters += layer.count * layer.d_out * layer.d_in;
  CHECK(parameters == 6979321856);  // of the model's 8.03e9: all but embeddings, head and norms
  const std::vector<LayerSize> small = distinct(model_layers("smollm2-135m"));
  REQUIRE(small.size() == 4);
  CHECK(small[0].name == "q_proj+o_proj");
  CHECK(small[0].count == 60);
  CHECK(small[1].d_out == 192);
  refuses("unknown model 'llama-8b'; did you mean 'llama-3-8b'?", [] { model_layers("llama-8b"); });
}

TEST_CASE("shapes are read or refused") {
  const LayerSize size = parse_shape("14336x4096");
  CHECK(size.d_out == 14336);
  CHECK(size.d_in == 4096);
  for (const char* text : {"12", "x", "12x", "x12", "12x-4", "12X4"}) refuses("--shapes", [&] { parse_shape(text); });
}

TEST_CASE("quartiles interpolate, and one value is its own spread") {
  const Spread five = spread({5, 1, 4, 2, 3});
  CHECK(five.median == 3);
  CHECK(five.fastest == 1);
  CHECK(five.q1 == 2);
  CHECK(five.q3 == 4);
  const Spread even = spread({1, 2, 3, 4});
  CHECK(even.q1 == doctest::Approx(1.75));
  CHECK(even.median == doctest::Approx(2.5));
  CHECK(spread({7}).q3 == 7);
  refuses("no measurement", [] { spread({}); });
  CHECK(calls_for(0.5, 8) == 16);
  CHECK(calls_for(1, 1e-4) == 1);
  CHECK(calls_for(0, 1e-4) > 100);
}

TEST_CASE("JSON escapes text and has no number for NaN") {
  Json json;
  json.add("a\"b", "c\\d\n").add("n", 0.1).add("i", std::int64_t{-3});
  json.add("nan", std::numeric_limits<double>::quiet_NaN()).add("o", Json().add("x", 1));
  CHECK(json.str() == R"({"a\"b": "c\\d\u000a", "n": 0.1, "i": -3, "nan": null, "o": {"x": 1}})");
  CHECK(Json().str() == "{}");
}

TEST_CASE("random layers are legal and their rows are what a forward pass multiplies by") {
  const auto device = make_device("cpu");
  for (const char* format : {"nm24", "bitmap", "dense"})
    for (const char* dtype : {"f32", "bf16", "f16"}) {
      CAPTURE(format);
      CAPTURE(dtype);
      const RandomLayer random = random_layer(parse_format(format), parse_dtype(dtype), 9, 20, 2, 3);
      const auto layer = make_cpu_layer(random.shape, random.tensors());
      const std::vector<std::byte> x = random_values(20, 5, random.shape.dtype);
      std::vector<std::byte> y(9 * 4);
      const auto workspace = device->allocate(layer->workspace_bytes(1));
      layer->forward(x.data(), y.data(), 1, workspace.get(), layer->workspace_bytes(1), 0);
      for (Index i = 0; i < 9; ++i) {
        double sum = 0;
        const std::vector<double> row = random.dense_row(i);
        for (Index j = 0; j < 20; ++j)
          sum += row[static_cast<std::size_t>(j)] * value_at(x.data(), j, random.shape.dtype);
        CHECK(value_at(y.data(), i, random.shape.dtype) == doctest::Approx(sum).epsilon(0.02));
      }
    }
  refuses("divisible by 4, got 6", [] { random_layer(Format::nm24, DType::f32, 4, 6, 0, 1); });
  refuses("unknown dtype 'f64'", [] { parse_dtype("f64"); });
  refuses("unknown format 'csr'", [] { parse_format("csr"); });
}

TEST_CASE("timing takes the asked number of repeats and reaches every copy") {
  const auto device = make_device("cpu");
  std::vector<int> calls(3);
  const Way way{[&](int i) { ++calls[static_cast<std::size_t>(i) % 3]; }, 3};
  const std::vector<Spread> seconds = device->measure({way, way}, 6);
  REQUIRE(seconds.size() == 2);
  CHECK(seconds[0].repeats == 6);
  CHECK(seconds[0].q1 <= seconds[0].median);
  CHECK(seconds[0].median <= seconds[0].q3);
  for (const int count : calls) CHECK(count > 0);
  CHECK(cold_copies(*device, 1) > cold_copies(*device, 1 << 26));
  CHECK(cold_copies(*device, std::int64_t{1} << 40) == 2);
  CHECK(test::fails_with(ErrorCode::invalid_argument, "unknown device 'tpu'", [] { make_device("tpu"); }));
}

TEST_CASE("a wrong or unwritten result is noticed") {
  const auto device = make_device("cpu");
  const auto bytes_of_floats = [](const std::vector<float>& values) {
    const auto* from = reinterpret_cast<const std::byte*>(values.data());
    return std::vector<std::byte>(from, from + 4 * values.size());
  };
  const Product product{"it", 2, 2, 1, DType::f32, [](Index row) { return std::vector<double>{row + 1.0}; }};
  const std::vector<std::byte> x = bytes_of_floats({5, 3});
  CHECK(verify(*device, product, x, Uploaded(*device, bytes_of_floats({0, 0, 3, 6}))) == 0);
  CHECK(verify(*device, product, x, Uploaded(*device, bytes_of_floats({0, 0, 3, 6.01f}))) > 0);
  const auto refused = [&](const std::string& part, const std::vector<std::byte>& y) {
    return test::fails_with(ErrorCode::internal, part, [&] { verify(*device, product, x, Uploaded(*device, y)); });
  };
  CHECK(refused("it gives a wrong result", bytes_of_floats({0, 0, 3, 7})));
  CHECK(refused("it left entry 0 of its result unwritten", poison(product)));
}

TEST_CASE("slices cover everything once, also fewer items than threads") {
  Slices slices(3);
  for (const Index count : {Index{0}, Index{2}, Index{7}, Index{300}}) {
    std::vector<int> seen(static_cast<std::size_t>(count));
    slices.run(count, [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
    });
    CHECK(std::count(seen.begin(), seen.end(), 1) == count);
  }
}

TEST_CASE("a dense product is the same in slices") {
  const auto device = make_device("cpu");
  for (const Index tokens : {Index{1}, Index{2}, Index{40}}) {
    constexpr Index kOut = 9, kIn = 16;
    const auto x = random_values(tokens * kIn, 1, DType::f32), w = random_values(kOut * kIn, 2, DType::f32);
    std::vector<float> y(static_cast<std::size_t>(tokens * kOut)), first;
    bool same = true;
    const Way way{[&](int) {
                    device->dense(x.data(), w.data(), y.data(), tokens, kOut, kIn, DType::f32);
                    if (first.empty()) first = y;
                    for (std::size_t i = 0; i < y.size(); ++i) same = same && std::abs(y[i] - first[i]) < 1e-5f;
                    std::fill(y.begin(), y.end(), 7.0f);
                  },
                  1, true};
    device->measure({way}, 3);
    CHECK(same);
  }
}

TEST_CASE("the dense baseline multiplies") {
  const auto device = make_device("cpu");
  const std::vector<float> x{1, 2, 3, 4}, w{1, 0, 0, 1, 1, 1};
  std::vector<float> y(6);
  device->dense(x.data(), w.data(), y.data(), 2, 3, 2, DType::f32);
  CHECK(y == std::vector<float>{1, 2, 3, 3, 4, 7});
  device->dense(x.data(), w.data(), y.data(), 1, 3, 2, DType::f32);
  CHECK(std::vector<float>(y.begin(), y.begin() + 3) == std::vector<float>{1, 2, 3});
  std::vector<float> a{4, 0, 0, 2};
  device->invert(a.data(), 2);
  CHECK(a[0] == doctest::Approx(0.25));
  CHECK(a[3] == doctest::Approx(0.5));
  std::vector<float> basis{3, 4, 0};
  device->orthonormalise(basis.data(), 3, 1);
  CHECK(std::abs(basis[0]) == doctest::Approx(0.6));
}

TEST_CASE("synthetic Gram matrices are symmetric, positive and have outlier channels") {
  const auto backend = make_backend("cpu");
  const test::Dense gram = test::fetch(*backend, synthetic_gram(*backend, 600, 1200, 1));
  double trace = 0, largest = 0;
  for (Index i = 0; i < gram.rows; ++i) {
    CHECK(gram(i, i) > 0);
    CHECK(gram(i, 0) == gram(0, i));
    trace += gram(i, i);
    largest = std::max(largest, gram(i, i));
  }
  CHECK(largest > 20 * trace / 600);
}

TEST_SUITE_END();
