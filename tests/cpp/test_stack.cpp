// Layers that run as one, by the C interface: side by side what each of them gives alone.
#include <cmath>
#include <string>
#include <vector>

#include "sparlow/embed.hpp"
#include "support.hpp"

namespace sparlow::test {
TEST_SUITE_BEGIN("stack");

namespace {

std::vector<float> waves(std::int64_t count, double speed) {
  std::vector<float> out;
  for (std::int64_t i = 0; i < count; ++i)
    out.push_back(static_cast<float>(std::sin(speed * static_cast<double>(i + 1))));
  return out;
}

struct Part {
  Part(std::int64_t d_out, std::int64_t d_in, std::int64_t rank, bool biased)
      : biased(biased),
        w(waves(d_out * d_in, 0.7)),
        u(waves(d_out * rank, 1.9)),
        v(waves(rank * d_in, 2.3)),
        bias(waves(d_out, 3.1)) {
    info.format = SPARLOW_DENSE;
    info.dtype = SPARLOW_F32;
    info.d_out = d_out, info.d_in = d_in, info.rank = rank, info.stored = d_out * d_in;
  }
  sparlow_layer_tensors tensors() const {
    auto out = embed::make<sparlow_layer_tensors>();
    out.values = w.data(), out.u = u.data(), out.v = v.data();
    if (biased) out.bias = bias.data();
    return out;
  }
  bool biased;
  std::vector<float> w, u, v, bias;
  sparlow_layer_info info = embed::make<sparlow_layer_info>();
};

std::vector<float> forward(const embed::Layer& layer, const std::vector<float>& x, std::int64_t tokens) {
  std::vector<float> y(static_cast<std::size_t>(tokens * layer.info().d_out));
  layer.forward(x.data(), y.data(), tokens, embed::Workspace(layer.workspace_bytes(tokens)));
  return y;
}

}  // namespace

TEST_CASE("a stack gives its layers' outputs side by side") {
  constexpr std::int64_t kIn = 24;
  const std::vector<Part> parts = {{6, kIn, 2, false}, {70, kIn, 0, true}, {1, kIn, 5, false}};
  const embed::Context context("cpu");
  const embed::Layer stack(context, {parts[0].info, parts[1].info, parts[2].info},
                           {parts[0].tensors(), parts[1].tensors(), parts[2].tensors()});
  CHECK(stack.info().d_out == 77);
  CHECK(stack.info().rank == 5);
  CHECK(stack.info().has_bias == 1);
  for (const std::int64_t tokens : {1, 2, 5, 100}) {
    const auto x = waves(tokens * kIn, 0.3), y = forward(stack, x, tokens);
    std::int64_t first = 0;
    for (const Part& part : parts) {
      const auto alone = forward(embed::Layer(context, part.info, part.tensors()), x, tokens);
      bool equal = true;
      for (std::int64_t t = 0; t < tokens; ++t)
        for (std::int64_t i = 0; i < part.info.d_out; ++i)
          equal = equal && alone[t * part.info.d_out + i] == y[t * 77 + first + i];
      CAPTURE(tokens);
      CAPTURE(first);
      CHECK(equal);
      first += part.info.d_out;
    }
  }
}

TEST_CASE("what cannot be stacked is refused") {
  const embed::Context context("cpu");
  const Part a(4, 8, 0, false), b(4, 12, 0, false);
  Part c(4, 8, 0, false);
  c.info.dtype = SPARLOW_BF16;
  const auto refused = [&](const Part& other, const char* words) {
    CHECK_THROWS_WITH_AS(embed::Layer(context, {a.info, other.info}, {a.tensors(), other.tensors()}), words,
                         embed::Failure);
  };
  refused(b, "layer 1 of a stack differs from the first in d_in");
  refused(c, "layer 1 of a stack differs from the first in dtype");
  sparlow_layer* layer = nullptr;
  CHECK(sparlow_layer_create_stack_from(context.get(), nullptr, nullptr, 1, &layer) == SPARLOW_INVALID_ARGUMENT);
  CHECK(sparlow_layer_create_stack_from(context.get(), nullptr, nullptr, 0, &layer) == SPARLOW_INVALID_ARGUMENT);
  CHECK(std::string(sparlow_last_error()) == "a stack of 0 layers");
  CHECK(layer == nullptr);
}

TEST_SUITE_END();
}  // namespace sparlow::test
