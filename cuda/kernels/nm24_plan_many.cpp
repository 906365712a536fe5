// Which tiles the kernel for many tokens has: those that take least by the times below, which are of
// bench/ladders/decode_nm24/many.cu on an H100. Pure host code.
#include <algorithm>

#include "nm24_layout.hpp"
#include "nm24_plan.hpp"

namespace sparlow::kernels {
namespace {

// Microseconds of a tile: of a block of 128 columns, and of one where tiles queue and there is much of x, which is
// slower for blocks that share nothing; of its beginning and end.
struct TileTime {
  double column, queued, ends;
};
constexpr TileTime kTileTimes[kManyConfigCount] = {{.5, .65, 3},  {.62, .62, 5},   {.93, 1.1, 2},  {1, 1.03, 1},
                                                   {.7, .8, 2},   {.64, .64, 7},   {.8, .8, 2},    {.85, .85, 7},
                                                   {.43, .55, 3}, {.55, .55, 4.2}, {.52, .52, 4.2}};
constexpr double kWeights = 3e6;                // bytes a microsecond
constexpr int kManyRounds = 6;                  // from which on a block had better do one tile after the other
constexpr double kApart = 4, kApartColumn = 1;  // of t made apart: launch and sums, a block of columns of its block
constexpr double kMargin = 1.3, kTie = .05;     // what is left of the products where weights take longer
constexpr int kMostTSplits = 8, kApartBlocks = 64;
constexpr int kQueuedTokens = 1024;    // from which on x is too much for blocks that share nothing
constexpr int kVeryManyTokens = 4096;  // from which on t is bound by reading x

struct Candidate {
  const Nm24Shape& shape;
  const ManyConfig& config;
  TileTime tile;
  int tokens, clusters;  // that run at once

  int tiles() const { return blocks(blocks(shape.d_out(), kManyRows), config.cluster) * blocks(tokens, config.tokens); }
  int rounds() const { return blocks(tiles(), clusters); }
  // Blocks that share x share t as well: their rows may not straddle two parts.
  bool fits() const {
    for (int p = 0; p + 1 < shape.parts; ++p)
      if (shape.rows[p] % (config.cluster * kManyRows) != 0) return false;
    return config.splits == 1 || rounds() == 1;
  }
  int idle() const { return (rounds() * clusters - tiles()) * config.cluster * config.splits; }
  int stages() const { return shape.parts * blocks(shape.rank, kManyRankStage); }
  double products() const {
    const double units = blocks(shape.d_in, kColumnBlock) + 2. * blocks(shape.rank, kManyRankStage);
    const double column = rounds() > 1 && tokens >= kQueuedTokens ? tile.queued : tile.column;
    return rounds() * (units / config.splits * column + tile.ends);
  }
  // Of the columns of t made apart: as many as give `room` blocks at most; 0 if there is no room.
  int t_splits(int room) const {
    int splits = kMostTSplits;
    while (splits > 0 && blocks(tokens, kManyTTokens) * stages() * splits > room) splits /= 2;
    return splits;
  }
  double t_apart(int splits) const { return kApart + kApartColumn * blocks(shape.d_in, kColumnBlock) / splits; }
  // On what the tiles leave idle if it is there in time.
  int t_splits() const {
    if (shape.rank == 0) return 0;
    if (tokens >= kVeryManyTokens) return std::max(t_splits(kApartBlocks), 1);
    const int splits = t_splits(std::min(idle(), kApartBlocks));
    return splits > 0 && kMargin * t_apart(splits) < products() ? splits : 0;
  }
  // What t adds: little when made apart, else all its time.
  double t_time() const {
    if (shape.rank == 0) return 0;
    if (tokens >= kVeryManyTokens) return t_apart(t_splits());
    if (t_splits() > 0) return 1;
    return 3 + shape.d_in * stages() * (4.7e-4 + .7e-6 * tokens);
  }
  double time() const {
    const double weights = 2. * 9 / 16 * shape.d_out() * shape.d_in / kWeights;
    return std::max(products(), weights) + kTie * products() + t_time();
  }
};

}  // namespace

bool many_can(const Nm24Shape& shape, bool aligned_x, const Nm24Device& device) {
  for (int p = 0; p + 1 < shape.parts; ++p)
    if (shape.rows[p] % kManyRows != 0) return false;
  return device.arch == 90 && aligned_x && shape.d_in % 8 == 0;
}

Nm24Plan many_plan(const Nm24Shape& shape, int tokens, const Nm24Device& device) {
  Nm24Plan plan{};
  plan.kernel = Nm24Kernel::many, plan.splits = 1;
  double least = 0;
  for (int variant = 0; variant < kManyConfigCount; ++variant) {
    const ManyConfig& config = kManyConfigs[variant];
    const int clusters = device.multiprocessors / (config.cluster * config.splits);
    const Candidate candidate{shape, config, kTileTimes[variant], tokens, clusters};
    if (!candidate.fits() || (least > 0 && candidate.time() >= least)) continue;
    least = candidate.time(), plan.variant = variant, plan.t_splits = candidate.t_splits();
    plan.clusters = candidate.rounds() >= kManyRounds ? clusters : 0;
  }
  if (plan.clusters > 0) plan.t_splits = 0;  // every block has its tiles: all had better start at once
  plan.scratch = 2 * static_cast<std::size_t>(tokens) * shape.parts * many_t_columns(shape);
  return plan;
}

int many_t_columns(const Nm24Shape& shape) { return 2 * kManyRankStage * blocks(shape.rank, kManyRankStage); }

}  // namespace sparlow::kernels
