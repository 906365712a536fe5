// The compiled configurations, shared by the planner and the launcher.
#pragma once

#include "nm24.hpp"

namespace sparlow::kernels {

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

// Offsets in bytes of what follows Progress.
struct Nm24Workspace {
  std::size_t shares, sums, end;
};
Nm24Workspace nm24_workspace(const Nm24Shape& shape, const Nm24Plan& plan, int tokens);

}  // namespace sparlow::kernels
