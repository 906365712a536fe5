// Shapes of compressed layers, the planner, and the compiled configurations it chooses from. Pure host code: needs no
// CUDA.
#pragma once

#include <cstddef>

namespace sparlow::kernels {

// Up to four layers that read the same x may be stacked (q, k, v; gate, up). Each but the last has a multiple of 32
// rows. They share one rank: the largest; narrower factors are padded with zeros.
struct Nm24Shape {
  static constexpr int kMaxParts = 4;
  int d_in = 0;  // a multiple of 4
  int rank = 0;
  int parts = 1;
  int rows[kMaxParts] = {};

  constexpr int d_out() const { return rows[0] + rows[1] + rows[2] + rows[3]; }
};

struct Nm24Device {
  int arch;  // 10 major + minor, e.g. 90
  int multiprocessors;
};

enum class Nm24Kernel {
  decode,  // warp-sized products, sm_80 and later
  wide,    // warpgroup-sized products, sm_90
  many,    // the same with tiles of 128 rows and 64 to 256 tokens, bound by the matrix units
};

struct Nm24Plan {
  Nm24Kernel kernel;
  int token_tiles;  // of 8 tokens, of one block
  int variant;      // index into the kernel's compiled configurations
  int splits;       // blocks that share rows: a cluster
  // Of the kernel for many tokens:
  int clusters;                    // 0: one for each tile
  int t_splits, t_tokens;          // of blocks that make t beside the tiles; 0: t is made before
  int late;                        // clusters that begin a tile later, as t is made where they will be
  int head_tiles, rest_variant;    // row tiles of the first launch, 0: all; configuration of the other, for the rest
  std::size_t workspace, scratch;  // bytes
};

// tokens >= 1. aligned_x: x starts at a multiple of 16 bytes (it must at one of 8).
Nm24Plan nm24_plan(const Nm24Shape& shape, int tokens, bool aligned_x, const Nm24Device& device);
const char* nm24_name(const Nm24Plan& plan);

constexpr int kInnerSplits = 4;  // blocks that share the columns of x vᵀ

struct DecodeConfig {
  int token_tiles;  // of 8 tokens
  int warps, stages;
};
// One stage a warp is enough where every row block has a multiprocessor to itself, and leaves the memory shorter
// queues.
constexpr DecodeConfig kDecodeConfigs[] = {{1, 8, 1}, {1, 8, 2}, {2, 8, 1}};
constexpr int kDecodeConfigCount = sizeof kDecodeConfigs / sizeof kDecodeConfigs[0];

struct WideConfig {
  int token_tiles;
  int groups;  // warpgroups of 64 rows
  int stages;
};
// For each number of tokens a shallow ring, which lets two blocks or more share a multiprocessor, and a deep one.
constexpr WideConfig kWideConfigs[] = {{2, 1, 5}, {2, 1, 8}, {4, 1, 4}, {4, 1, 6}, {8, 1, 3}, {8, 1, 7}};
constexpr int kWideConfigCount = sizeof kWideConfigs / sizeof kWideConfigs[0];

struct ManyConfig {
  int tokens;        // of one block
  int cluster;       // blocks that share x,
  int splits;        // or columns
  int stages, step;  // of the ring; how many of them are multiplied without a wait

  // Leaves room on a multiprocessor for a block of the kernel before, which makes t meanwhile.
  constexpr bool small() const { return tokens <= 128 || (tokens == 192 && splits == 2); }
};
// What a warp does between steps is hidden by the products of a larger tile; a longer step leaves less of the ring to
// copies, and more of what L2 gives to blocks that make t.
constexpr ManyConfig kManyConfigs[] = {{128, 1, 1, 8, 1}, {128, 1, 2, 8, 1}, {256, 1, 1, 5, 1}, {256, 2, 1, 5, 1},
                                       {192, 1, 1, 6, 1}, {192, 1, 2, 6, 1}, {192, 2, 1, 6, 1}, {256, 1, 2, 5, 1},
                                       {96, 1, 1, 9, 2},  {96, 1, 2, 9, 1},  {64, 1, 2, 11, 1}, {96, 1, 2, 9, 2}};
constexpr int kManyConfigCount = sizeof kManyConfigs / sizeof kManyConfigs[0];
constexpr int kManyRows = 128;               // of one block
constexpr int kManyRankStage = 64;           // t has columns for whole stages of ranks
int many_t_columns(const Nm24Shape& shape);  // of one part
bool many_can(const Nm24Shape& shape, bool aligned_x, const Nm24Device& device);
Nm24Plan many_plan(const Nm24Shape& shape, int tokens, const Nm24Device& device);

// Offsets in bytes of what follows Progress.
struct Nm24Workspace {
  std::size_t shares, sums, end;
};
Nm24Workspace nm24_workspace(const Nm24Shape& shape, const Nm24Plan& plan, int tokens);

}  // namespace sparlow::kernels
