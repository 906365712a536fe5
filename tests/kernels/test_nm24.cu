// nm24_forward against float64 on the host, on shapes chosen to break it. Needs a GPU; no torch.
#include "nm24_layer.cuh"

using namespace nm24_test;

namespace {

bool quick = false;  // for compute-sanitizer
Nm24Device device{};

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
