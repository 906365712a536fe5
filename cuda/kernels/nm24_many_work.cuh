// What a block of the many-token kernel works on: one tile, or every so many-th.
#pragma once

#include "nm24_many_inner.cuh"

namespace sparlow::kernels {

// Of tensor copies: x and t by tokens, the rest by row blocks.
struct ManyMaps {
  CUtensorMap x, t, values, positions, u;
};

struct ManyArgs {
  const void* bias;  // may be null
  void* y;           // [tokens, d_out]
  int d_out, tokens;
  int columns;     // stages of kManyColumns
  int rank_steps;  // of one part
  int t_columns;   // of one part of t, as many_inner_kernel leaves it
  int x_rows;      // tokens that a block copies: fewer than its share where there are no more
  int part_end[kMaxParts - 1];
  int first_row_tile, row_tiles;  // of kManyRows rows: those of this launch
  int tiles;                      // of all clusters
  int late;  // clusters that begin a tile later, as t is made where they will be; 0 if all have one tile
  bool rest_follows, is_rest;  // another launch takes the other rows
};

constexpr int kManyColumns = 64;    // of one stage, or ranks
constexpr int kManyBand = 16;       // token tiles that share a sweep over the rows
constexpr int kRankStageSteps = 2;  // of u in a stage

// Tensor copies take packed operands by lines of 128 bytes, values by pairs of such lines.
constexpr int kLine = 128;
constexpr int kBlockLines = kBlockBytes / kLine, kBlockPairs = kBlockLines / 2, kValueLines = kValueUnits * 16 / kLine;
constexpr int kRankStepLines = 1024 / kLine;

// Blocks of a cluster share x (kCluster) or split the columns (kSplits).
template <int kTokens_, int kCluster_, int kSplits_, int kStages_, int kStepStages_>
struct ManyShape {
  static constexpr int kTokens = kTokens_, kCluster = kCluster_, kSplits = kSplits_, kStages = kStages_;
  static constexpr int kStepStages = kStepStages_;  // multiplied one after the other without a wait
  static_assert(kCluster == 1 || kSplits == 1);
  static constexpr bool kSmall = ManyConfig{kTokens, kCluster, kSplits, kStages, kStepStages}.small();
  static constexpr int kTiles = kTokens / 8, kWarps = 8, kThreads = (kWarps + 4) * 32;
  // Threads that copy. To start a copy takes one longer than a small tile's products take; while a large tile's run,
  // every look at a barrier holds them up.
  static constexpr int kProducers = kSmall ? 3 : 1;
  // A stage: x, then the kept weights of 64 columns and their positions, or two steps of u.
  static constexpr int kRowBlocks = kManyRows / kRowBlock;
  static constexpr int kXBytes = kTokens * 2 * kManyColumns;
  static constexpr int kValueBytes = kManyRows * kManyColumns, kPositionBytes = kValueBytes / 8;
  static constexpr int kWeightBytes = kValueBytes + kPositionBytes, kStageBytes = kXBytes + kWeightBytes;
  static_assert(kRowBlocks * kRankStageSteps * 1024 == kValueBytes && kStageBytes % 1024 == 0);
  static constexpr int kChunkBytes = kManyRows * 16;  // of the values of all rows for 16 columns
  static constexpr int kRingBytes = kStages * kStageBytes;
  static constexpr int kStoredTiles = 4, kStoreBytes = kStoredTiles * 1024;  // that a warpgroup stores at once
  static constexpr int kSharedBytes = kRingBytes + 2 * kStoreBytes + 1024;
  static constexpr int kSumStride = kManyRows + 4;  // lanes of a quad fall into different banks
  static_assert(kSharedBytes <= 227 * 1024 && kStages >= 3);
  static_assert(kSplits == 1 || kTokens * kSumStride * 4 <= kRingBytes);  // sums take the place of the ring
};

// A tile, or a split of its columns.
struct ManyWork {
  int first_row_block, first_token, part;
  int new_tokens;                 // the first token that is not of the tile before as well
  int first_column, last_column;  // stages
  int rank_steps;
};

#if SPARLOW_SM90

__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

template <typename Shape>
struct ManySchedule {
  static constexpr int kBlocks = Shape::kCluster * Shape::kSplits;
  const ManyArgs& a;
  int stride = static_cast<int>(gridDim.x) / kBlocks, early = stride - a.late;
  int tile = static_cast<int>(blockIdx.x) / kBlocks;
  int rank = kBlocks == 1 ? 0 : static_cast<int>(cluster_rank());  // in the cluster

  __device__ __forceinline__ explicit ManySchedule(const ManyArgs& args) : a(args) {
    if (tile >= early) tile += early;
  }
  __device__ __forceinline__ void place(ManyWork& work) const {
    const int row_groups = blocks(a.row_tiles, Shape::kCluster);
    const int token_tiles = blocks(a.tokens, Shape::kTokens);
    const int band = tile / (row_groups * kManyBand), rest = tile - band * row_groups * kManyBand;
    const int width = min(kManyBand, token_tiles - band * kManyBand);
    const int row_group = rest / width * Shape::kCluster + (Shape::kCluster > 1 ? rank : 0);
    work.first_row_block = (a.first_row_tile + row_group) * Shape::kRowBlocks;
    work.new_tokens = (band * kManyBand + rest % width) * Shape::kTokens;
    // The last tile overlaps the one before: tensor copies are slow where a box leaves the matrix.
    work.first_token = min(work.new_tokens, max(a.tokens - Shape::kTokens, 0));
    work.part = 0;
    for (int i = 0; i < kMaxParts - 1; ++i) work.part += work.first_row_block >= a.part_end[i];
  }
  // kRankStage ranks cost as much as four stages of columns.
  __device__ __forceinline__ void split(ManyWork& work) const {
    const int index = Shape::kSplits > 1 ? rank : 0, units = a.columns + 4 * blocks(a.rank_steps, kRankTiles);
    work.first_column = min(units * index / Shape::kSplits, a.columns);
    work.last_column = min(units * (index + 1) / Shape::kSplits, a.columns);
    work.rank_steps = 0;
    if (index == Shape::kSplits - 1) work.last_column = a.columns, work.rank_steps = a.rank_steps;
  }
  __device__ __forceinline__ bool next(ManyWork& work) {
    if (tile >= a.tiles) return false;
    place(work), split(work);
    tile += tile < early ? early : stride;
    return true;
  }
  __device__ __forceinline__ bool done() const { return tile >= a.tiles; }
};

#endif  // SPARLOW_SM90

}  // namespace sparlow::kernels
