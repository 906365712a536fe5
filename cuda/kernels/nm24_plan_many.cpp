// Which tiles the kernel for many tokens has and when t is made: what takes least by the times below, which are of
// bench/ladders/decode_nm24/many.cu and inner.cu on an H100, fitted to what plans.cu there measures. Pure host code.
#include <algorithm>

#include "nm24_layout.hpp"
#include "nm24_plan.hpp"

namespace sparlow::kernels {
namespace {

// Microseconds of a tile: of a block of 128 columns, where half of the device or less has one, where all of it has, and
// where there is much of x as well (the clock falls, and blocks that share nothing wait for each other); of beginning
// and end.
struct TileTime {
  double few, full, much, ends;
  double slows = 1;  // blocks that make t beside it: a share of what others do
};
constexpr TileTime kTileTimes[kManyConfigCount] = {{.425, .51, .62, 2.8}, {.54, .65, .65, 5},   {.73, .9, 1.12, 2.5},
                                                   {.78, .97, 1.03, 2.5}, {.57, .72, .86, 3.2}, {.62, .81, .81, 5.5},
                                                   {.66, .78, .8, 3},     {.74, 1, 1, 6},       {.375, .42, .46, 2.8},
                                                   {.45, .565, .565, 5},  {.44, .5, .5, 4.8},   {.69, .6, .6, 4.2, .4}};
constexpr double kAfter = 1.25;           // of beginning and end: what comes after t
constexpr double kFew = .5, kFull = .95;  // of the device
constexpr int kMuch = 1024;               // tokens up to which x is not much
constexpr double kSecondLaunch = 1.5;     // what a launch for the rest of the rows adds
constexpr double kGain = .98;             // of the time, that a second launch must save
// Where weights take longer than products: of reading them once, and of what comes before and after.
constexpr double kWeights = 2.7e6, kWeightEnds = 2.3;  // bytes a microsecond
constexpr double kTie = .08;                           // of products that take less

// Of a block that makes t: its tokens, microseconds of 128 columns while half of the device or more is idle, and how
// much longer they take beside tiles on all of it, and where these wait for memory.
struct TTime {
  int tokens;
  double column;
};
constexpr TTime kTTimes[] = {{256, .56}, {192, .42}, {128, .36}};
constexpr double kTSlowed = .3, kTStarved = .3;
constexpr double kTMuch = 1.4;              // times as long where there is much of x
constexpr double kTEnds = 4, kTSplit = .3;  // microseconds of beginning and end, and of adding one more split
constexpr int kMostTSplits = 8;
constexpr int kTSmallest = 128, kTStep = 64;  // sizes

struct Times {
  const Nm24Shape& shape;
  int tokens, multiprocessors;

  int row_tiles() const { return blocks(shape.d_out(), kManyRows); }
  int columns() const { return blocks(shape.d_in, kColumnBlock); }
  int rank_stages() const { return blocks(shape.rank, kManyRankStage); }
  int t_stages() const { return shape.parts * rank_stages(); }
  // Blocks that share x share t as well: their rows may not straddle two parts.
  bool fits(const ManyConfig& config) const {
    for (int p = 0; p + 1 < shape.parts; ++p)
      if (shape.rows[p] % (config.cluster * kManyRows) != 0) return false;
    return true;
  }
  int clusters(const ManyConfig& config) const { return multiprocessors / (config.cluster * config.splits); }
  int tiles(const ManyConfig& config, int rows) const {
    return blocks(rows, config.cluster) * blocks(tokens, config.tokens);
  }
  // How much of the device tiles take, from the few of which each has what it wants (0) to all of it (1).
  double busy(int variant, int rounds, int rows) const {
    const ManyConfig& config = kManyConfigs[variant];
    const double share = rounds > 1 ? 1 : 1. * tiles(config, rows) / clusters(config);
    return std::clamp((share - kFew) / (kFull - kFew), 0., 1.);
  }
  double column(int variant, int rounds, int rows) const {
    const TileTime& time = kTileTimes[variant];
    return tokens > kMuch ? time.much : time.few + (time.full - time.few) * busy(variant, rounds, rows);
  }
  double after_t(int variant) const {
    return 2 * rank_stages() * kTileTimes[variant].few + kAfter * kTileTimes[variant].ends;
  }
  double tile(int variant, int rounds, int rows) const {
    const double column = this->column(variant, rounds, rows), ends = kTileTimes[variant].ends;
    return (columns() + 2. * rank_stages()) / kManyConfigs[variant].splits * column + ends;
  }
  // Of some rows of weights.
  double weights(int rows) const { return 2. * 9 / 16 * rows * kManyRows * shape.d_in / kWeights + kWeightEnds; }
  double t_before() const { return 2 + shape.d_in * t_stages() * (5e-4 + 2.2e-6 * tokens); }
};

// How t is made.
struct TChoice {
  int splits, tokens;     // 0: before the tiles
  int blocks;             // beside them
  double ends, products;  // microseconds

  // starved: weights' time as a share of the products' of the tiles.
  double time(double busy, double starved) const {
    return ends + products * (1 + (kTSlowed + kTStarved * std::min(starved, 1.)) * busy);
  }
};

// A plan and what it takes.
struct Candidate {
  Nm24Plan plan;
  double time;
};

// `rows` in `rounds` of tiles of one configuration, while t is made.
double time_of(const Times& times, const TChoice& t, int variant, int rounds, int rows) {
  const double tile = times.tile(variant, rounds, rows), products = rounds * tile;
  const double weights = times.weights(rows), all = std::max(products, weights) + kTie * products;
  const double t_time = t.time(kTileTimes[variant].slows * times.busy(variant, rounds, rows), weights / products);
  if (t.splits == 0) return all + t_time;
  return all + std::max(0., (times.tokens > kMuch ? kTMuch : 1) * t_time + times.after_t(variant) - tile);
}

// All rows by one configuration.
Candidate whole(const Times& times, const TChoice& t, int variant) {
  const ManyConfig& config = kManyConfigs[variant];
  const int clusters = times.clusters(config), late = blocks(t.blocks, config.cluster * config.splits);
  const int rounds = blocks(times.tiles(config, times.row_tiles()) + late, clusters);
  Candidate found{{}, time_of(times, t, variant, rounds, times.row_tiles())};
  found.plan.variant = variant, found.plan.t_splits = t.splits, found.plan.t_tokens = t.tokens;
  if (rounds > 1 && config.splits == 1) found.plan.clusters = clusters, found.plan.late = late;
  if (late > clusters) found.time = 0;
  return found;
}

// As many rows as fill whole rounds, the others by another configuration, which fills the device better.
Candidate in_two(const Times& times, const TChoice& t, int variant, int rest_variant) {
  Candidate found = whole(times, t, variant);
  const ManyConfig &config = kManyConfigs[variant], &other = kManyConfigs[rest_variant];
  const int clusters = times.clusters(config), late = blocks(t.blocks, config.cluster * config.splits);
  const int rounds = (times.tiles(config, times.row_tiles()) + late) / clusters;
  const int groups = (rounds * clusters - late) / blocks(times.tokens, config.tokens);
  const int step = times.shape.parts > 1 ? std::max(config.cluster, other.cluster) : config.cluster;
  const int head = groups * config.cluster / step * step, rest = times.row_tiles() - head;
  const double after = std::max(times.tile(rest_variant, 1, rest), times.weights(rest)) + kSecondLaunch;
  found.time = time_of(times, t, variant, rounds, head) + after;
  if (late > clusters || head < 1 || rest < 1 || times.tiles(other, rest) > times.clusters(other)) found.time = 0;
  if (rounds == 1) found.plan.clusters = found.plan.late = 0;
  found.plan.head_tiles = head, found.plan.rest_variant = rest_variant;
  return found;
}

void keep_better(Candidate& best, const Candidate& other, double gain) {
  if (other.time > 0 && (best.time == 0 || other.time < gain * best.time)) best = other;
}

// All that come into question, each with the share of a better one's time that it must stay below. Time 0: impossible.
template <typename Visit>
void for_each_plan(const Times& times, const TChoice& t, const Visit& visit) {
  for (int variant = 0; variant < kManyConfigCount; ++variant) {
    const ManyConfig& config = kManyConfigs[variant];
    if (!times.fits(config)) continue;
    const bool one_round = times.tiles(config, times.row_tiles()) <= times.clusters(config);
    if (config.splits == 1 || one_round) visit(whole(times, t, variant), 1.);
    for (int rest = 0; rest < kManyConfigCount && config.splits == 1 && !one_round; ++rest)
      if (times.fits(kManyConfigs[rest]) && kManyConfigs[rest].splits == 1)
        visit(in_two(times, t, variant, rest), kGain);
  }
}

template <typename Visit>
void for_each_t(const Times& times, const Visit& visit) {
  visit(TChoice{0, 0, 0, times.shape.rank > 0 ? times.t_before() : 0, 0});
  for (const TTime& t : kTTimes) {
    // The next smaller one holds all tokens.
    const bool too_large = t.tokens - kTStep >= std::max(times.tokens, kTSmallest);
    for (int splits = 1; splits <= kMostTSplits && times.shape.rank > 0 && !too_large; splits *= 2)
      visit(TChoice{splits, t.tokens, times.t_stages() * blocks(times.tokens, t.tokens) * splits,
                    kTEnds + (splits - 1) * kTSplit, t.column * times.columns() / splits});
  }
}

}  // namespace

bool many_can(const Nm24Shape& shape, bool aligned_x, const Nm24Device& device) {
  for (int p = 0; p + 1 < shape.parts; ++p)
    if (shape.rows[p] % kManyRows != 0) return false;
  return device.arch == 90 && aligned_x && shape.d_in % 8 == 0;
}

Nm24Plan many_plan(const Nm24Shape& shape, int tokens, const Nm24Device& device) {
  const Times times{shape, tokens, device.multiprocessors};
  Candidate best{};
  for_each_t(times, [&](const TChoice& t) {
    Candidate best_with{};
    for_each_plan(times, t, [&](const Candidate& found, double gain) { keep_better(best_with, found, gain); });
    keep_better(best, best_with, 1);
  });
  best.plan.kernel = Nm24Kernel::many, best.plan.splits = 1;
  best.plan.scratch = 2 * static_cast<std::size_t>(tokens) * shape.parts * many_t_columns(shape);
  return best.plan;
}

int many_t_columns(const Nm24Shape& shape) { return 2 * kManyRankStage * blocks(shape.rank, kManyRankStage); }

}  // namespace sparlow::kernels
