// The model on a GPU against the model on the CPU: the same rows, nearly the same logits. Passes without a GPU.
#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "model.hpp"

namespace llama::test {
TEST_SUITE_BEGIN("cuda");

namespace {

bool has_gpu() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

// Two layers of a real model's shape: its rows are no powers of two.
RandomOptions small_model(const char* shape, bool dense, sparlow_dtype dtype) { return {shape, dense, 16, dtype, 2}; }

int token_at(int slot, int position) { return (37 * position + 11 * slot + position * position % 13) % 256; }

// Positions [first, last) of a slot.
void append(std::vector<Row>& rows, int slot, int first, int last) {
  for (int p = first; p < last; ++p) rows.push_back({token_at(slot, p), slot, p, p + 1 == last});
}

class Pair {
 public:
  explicit Pair(const RandomOptions& options) : weights_(random_weights(options)) {
    const Limits limits{3, 600, 500};
    cpu_ = make_cpu_model(*weights_, options.dtype, limits);
    gpu_ = make_cuda_model(*weights_, options.dtype, limits, "cuda");
  }

  // The largest difference of the wanted logits as a share of the largest logit; both must agree on clear winners.
  double difference(const std::vector<Row>& rows) {
    cpu_->run(rows);
    gpu_->run(rows);
    const auto wanted =
        static_cast<int>(std::count_if(rows.begin(), rows.end(), [](const Row& r) { return r.wanted; }));
    double worst = 0, largest = 0;
    for (int w = 0; w < wanted; ++w) {
      const auto a = cpu_->logits(w), b = gpu_->logits(w);
      REQUIRE(a.size() == b.size());
      for (std::size_t i = 0; i < a.size(); ++i) {
        worst = std::max(worst, std::fabs(double{a[i]} - b[i]));
        largest = std::max(largest, std::fabs(double{a[i]}));
      }
      const auto best = static_cast<std::size_t>(gpu_->likeliest(w));
      CHECK(b[best] == *std::max_element(b.begin(), b.end()));
    }
    REQUIRE(largest > 0);
    return worst / largest;
  }

 private:
  std::unique_ptr<Weights> weights_;
  std::unique_ptr<Model> cpu_, gpu_;
};

}  // namespace

TEST_CASE("prompts, decoding of one and of several slots, long contexts") {
  if (!has_gpu()) return;
  for (const char* shape : {"tiny", "135m"})
    for (const auto& [dtype, dense] : {std::pair(SPARLOW_BF16, true), std::pair(SPARLOW_BF16, false),
                                       std::pair(SPARLOW_F16, true), std::pair(SPARLOW_F16, false)}) {
      CAPTURE(shape);
      CAPTURE(dtype);
      CAPTURE(dense);
      Pair pair(small_model(shape, dense, static_cast<sparlow_dtype>(dtype)));
      const double tolerance = dtype == SPARLOW_BF16 ? 0.04 : 0.005;
      std::vector<Row> rows;
      append(rows, 1, 0, 4);
      CHECK(pair.difference(rows) < tolerance);
      rows.clear();
      append(rows, 0, 0, 400);
      append(rows, 2, 0, 7);
      CHECK(pair.difference(rows) < tolerance);
      for (int step = 0; step < 3; ++step) {  // launched, recorded, replayed
        rows.clear();
        append(rows, 0, 400 + step, 401 + step);
        CHECK(pair.difference(rows) < tolerance);
      }
      rows.clear();
      append(rows, 1, 0, 1);
      append(rows, 0, 403, 404);
      append(rows, 2, 7, 8);
      CHECK(pair.difference(rows) < tolerance);
      rows.clear();
      append(rows, 0, 404, 405);
      append(rows, 1, 1, 130);
      CHECK(pair.difference(rows) < tolerance);
      rows.clear();
      append(rows, 1, 130, 131);
      append(rows, 2, 8, 9);
      for (int again = 0; again < 2; ++again) CHECK(pair.difference(rows) < tolerance);
    }
}

TEST_CASE("what a GPU does not do is named") {
  if (!has_gpu()) return;
  const auto weights = random_weights({"tiny", true, 0, SPARLOW_F32});
  CHECK_THROWS_WITH(make_cuda_model(*weights, SPARLOW_F32, {1, 64, 64}, "cuda"),
                    "a GPU computes in bfloat16 or float16 here; pass dtype bfloat16 instead of float32");
  CHECK_THROWS_WITH(make_cuda_model(*weights, SPARLOW_BF16, {1, 64, 64}, "cuda:99"),
                    doctest::Contains("this machine has"));
  CHECK_THROWS_WITH(make_cuda_model(*weights, SPARLOW_BF16, {1, 64, 64}, "tpu"),
                    doctest::Contains("unknown device 'tpu'"));
}

TEST_SUITE_END();
}  // namespace llama::test
