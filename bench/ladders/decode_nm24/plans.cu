// What the planner weighs for more than 64 tokens, its own times beside measured ones. plans D_OUT D_IN TOP TOKENS...:
// for each number of tokens the plan it takes, the TOP best tiles (each with its best t) and, for the best tile, the
// TOP / 2 best ways to make t, best by the planner's times. Contenders and cuBLAS take turns, so that heat and clock
// hit all alike; medians of their turns. CSV.
//
// The planner's source is part of this program: its candidates and their times have no header, as nobody else needs
// them, and what is compared must be the very numbers it decides by.
#include <array>
#include <set>

#include "../../../cuda/kernels/nm24.hpp"
#include "../../../cuda/kernels/nm24_plan_many.cpp"
#include "harness.cuh"

using namespace ladder;

namespace {

constexpr int kRank = 64, kTurns = 7;
constexpr double kTurnMicroseconds = 1500;

// What plans are told apart by: tiles of both launches; tokens and splits of the blocks that make t.
using Tiles = std::array<int, 2>;
using TBlocks = std::array<int, 2>;
Tiles tiles_of(const Nm24Plan& p) { return {p.variant, p.head_tiles > 0 ? p.rest_variant : -1}; }
TBlocks t_of(const Nm24Plan& p) { return {p.t_tokens, p.t_splits}; }
bool same(const Nm24Plan& a, const Nm24Plan& b) { return tiles_of(a) == tiles_of(b) && t_of(a) == t_of(b); }

// A plan, its place in the planner's order, and what it takes.
struct Contender {
  Nm24Plan plan;
  int place = 0;
  double model_us = 0;
  bool planned = false;
};

std::vector<Contender> contenders(const Nm24Shape& shape, int tokens, const Nm24Device& gpu, int top) {
  const Times times{shape, tokens, gpu.multiprocessors};
  std::vector<Candidate> all;
  for_each_t(times, [&](const TChoice& t) {
    for_each_plan(times, t, [&](const Candidate& found, double) {
      if (found.time > 0) all.push_back(found);
    });
  });
  std::stable_sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) { return a.time < b.time; });
  const Nm24Plan planned = many_plan(shape, tokens, gpu);
  const Tiles best = tiles_of(all[0].plan);
  std::set<Tiles> tiles;
  std::set<TBlocks> ways;
  std::vector<Contender> taken;
  for (std::size_t place = 0; place < all.size(); ++place) {
    Nm24Plan plan = all[place].plan;
    plan.kernel = planned.kernel, plan.splits = planned.splits, plan.scratch = planned.scratch;
    const bool of_tile = static_cast<int>(tiles.size()) < top && tiles.insert(tiles_of(plan)).second;
    const bool of_t =
        tiles_of(plan) == best && static_cast<int>(ways.size()) < top / 2 && ways.insert(t_of(plan)).second;
    const bool is_planned = same(plan, planned);
    if (of_tile || of_t || is_planned) taken.push_back({plan, static_cast<int>(place), all[place].time, is_planned});
  }
  return taken;
}

// Calls that walk through all copies of the weights, captured once.
struct Turn {
  cudaGraphExec_t graph{};
  int calls, replays = 1;
  std::vector<double> times{};

  Turn(const Launch& launch, int copies, cudaStream_t stream) : calls(copies * std::max(1, 24 / copies)) {
    cudaGraph_t captured;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < calls; ++i) launch(i % copies, stream);
    CHECK(cudaStreamEndCapture(stream, &captured));
    CHECK(cudaGraphInstantiate(&graph, captured, 0));
    CHECK(cudaGraphDestroy(captured));
  }
  double median() const {
    std::vector<double> sorted = times;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
};

// Microseconds of a call of each, by turns of about the same time.
std::vector<double> take_turns(std::vector<Turn>& turns, cudaStream_t stream) {
  cudaEvent_t start, stop;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&stop));
  const auto time = [&](const Turn& turn) {
    CHECK(cudaEventRecord(start, stream));
    for (int i = 0; i < turn.replays; ++i) CHECK(cudaGraphLaunch(turn.graph, stream));
    CHECK(cudaEventRecord(stop, stream));
    CHECK(cudaEventSynchronize(stop));
    float ms = 0;
    CHECK(cudaEventElapsedTime(&ms, start, stop));
    return 1000. * ms / (turn.calls * turn.replays);
  };
  for (Turn& turn : turns) {
    time(turn);  // the first replay loads the kernels
    turn.replays = std::max(1, static_cast<int>(kTurnMicroseconds / (time(turn) * turn.calls) + .5));
  }
  for (int round = -1; round < kTurns; ++round)
    for (Turn& turn : turns) {
      const double us = time(turn);
      if (round >= 0) turn.times.push_back(us);
    }
  std::vector<double> medians;
  for (Turn& turn : turns) {
    medians.push_back(turn.median());
    CHECK(cudaGraphExecDestroy(turn.graph));
  }
  CHECK(cudaEventDestroy(start));
  CHECK(cudaEventDestroy(stop));
  return medians;
}

struct Bench {
  const Layer& layer;
  const Cublas& cublas;
  cudaStream_t stream;
  Nm24Device gpu;
  Bf16 *dense, *x, *y;
  int dense_copies;
  void *workspace, *scratch;

  void measure(int tokens, int top) const {
    const int d_out = layer.d_out, d_in = layer.d_in;
    Nm24Shape shape{};
    shape.d_in = d_in, shape.rank = kRank, shape.rows[0] = d_out;
    const std::vector<Contender> all = contenders(shape, tokens, gpu, top);
    std::vector<Turn> turns;
    turns.emplace_back(
        [&](int c, cudaStream_t) { cublas.linear(dense + c * std::size_t(d_out) * d_in, x, y, d_out, d_in, tokens); },
        dense_copies, stream);
    for (const Contender& contender : all)
      turns.emplace_back(
          [&](int c, cudaStream_t q) {
            CHECK(nm24_forward(shape, contender.plan,
                               {layer.weights + c * layer.weight_n, layer.u + c * layer.u_n, layer.v + c * layer.v_n,
                                nullptr, x, y, workspace, scratch, tokens, Half::bfloat16, false},
                               q));
          },
          layer.copies, stream);
    const std::vector<double> us = take_turns(turns, stream);
    for (std::size_t i = 0; i < all.size(); ++i) print(all[i], tokens, us[i + 1], us[0]);
    std::fflush(stdout);
  }
  void print(const Contender& c, int tokens, double us, double dense_us) const {
    const Nm24Plan& p = c.plan;
    std::printf("%d,%d,%d,%d,%d,%s,%d,%s,%d,%d,%d,%d,%.1f,%.2f,%.2f,%.3f\n", layer.d_out, layer.d_in, tokens, c.place,
                c.planned, tile_name(p.variant).c_str(), p.head_tiles,
                p.head_tiles > 0 ? tile_name(p.rest_variant).c_str() : "", p.clusters, p.late, p.t_tokens, p.t_splits,
                c.model_us, us, dense_us, dense_us / us);
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) return std::printf("plans D_OUT D_IN TOP TOKENS...\n"), 1;
  const int d_out = std::atoi(argv[1]), d_in = std::atoi(argv[2]), top = std::atoi(argv[3]);
  std::vector<int> tokens;
  for (int i = 4; i < argc; ++i) tokens.push_back(std::atoi(argv[i]));
  const std::size_t most = *std::max_element(tokens.begin(), tokens.end());
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  cudaDeviceProp p;
  CHECK(cudaGetDeviceProperties(&p, 0));
  const Cublas cublas(stream);
  const Layer layer(d_out, d_in, kRank, 1, 300e6);
  const std::size_t dense_n = std::size_t(d_out) * d_in;
  const int dense_copies = std::max(2, static_cast<int>(300e6 / (2. * dense_n)) + 1);
  const Bench bench{layer,
                    cublas,
                    stream,
                    {10 * p.major + p.minor, p.multiProcessorCount},
                    device<Bf16>(dense_n * dense_copies),
                    device<Bf16>(most * d_in),
                    device<Bf16>(most * d_out),
                    dense_copies,
                    device<char>(8 << 20),
                    device<char>(64 << 20)};
  CHECK(cudaMemset(bench.workspace, 0, 8 << 20));
  fill_values<<<4096, 256>>>(bench.dense, dense_n * dense_copies, 9, .03f);
  fill_values<<<4096, 256>>>(bench.x, most * d_in, 5, 1.f);
  CHECK(cudaDeviceSynchronize());
  std::printf(
      "d_out,d_in,tokens,place,planned,tile,first launch,rest,clusters,late,t tokens,t splits,model us,us,dense us,"
      "x dense\n");
  for (const int n : tokens) bench.measure(n, top);
}
