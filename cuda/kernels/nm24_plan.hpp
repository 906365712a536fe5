// The compiled configurations, shared by the planner and the launcher.
#pragma once

#include "nm24.hpp"

namespace sparlow::kernels {

constexpr int kInnerSplits = 4;  // blocks that share the columns of x vᵀ

struct DecodeConfig {
  int token_tiles, warps, stages;
};
constexpr DecodeConfig kDecodeConfigs[] = {{1, 8, 1}, {2, 8, 1}};
constexpr int kDecodeMostTokens = 8;  // where the wide kernel can take over

struct WideConfig {
  int token_tiles, groups, stages;
};
constexpr WideConfig kWideConfigs[] = {{2, 1, 5}, {4, 1, 6}, {8, 1, 3}};
constexpr int kWideConfigCount = sizeof kWideConfigs / sizeof kWideConfigs[0];

// Offsets in bytes of what follows Progress.
struct Nm24Workspace {
  std::size_t shares, sums, sum_bytes;
};
Nm24Workspace nm24_workspace(const Nm24Shape& shape, const Nm24Plan& plan, int tokens);

}  // namespace sparlow::kernels
