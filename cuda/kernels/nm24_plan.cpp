// Which kernel runs a layer. Pure host code; what is behind the numbers: bench/ladders/decode_nm24.
#include "nm24_plan.hpp"

#include <algorithm>

#include "nm24_layout.hpp"

namespace sparlow::kernels {
namespace {

int rank_steps(const Nm24Shape& shape) { return blocks(shape.rank, kRankBlock); }

// Blocks of the wide kernel may not straddle two parts.
bool parts_fit(const Nm24Shape& shape, int rows) {
  for (int p = 0; p + 1 < shape.parts; ++p)
    if (shape.rows[p] % rows != 0) return false;
  return true;
}

bool wide_can(const Nm24Shape& shape, bool aligned_x, const Nm24Device& device) {
  return device.arch == 90 && aligned_x && shape.d_in % 8 == 0 && parts_fit(shape, 64);
}

// The stages of one block keep one multiprocessor busy; a cluster of two splits them when rows alone do not fill half
// of the device and each half is still long.
int splits_for(const Nm24Shape& shape, const WideConfig& config, int tokens, const Nm24Device& device) {
  const int blocks_of_rows = blocks(shape.d_out(), 64 * config.groups) * blocks(tokens, 8 * config.token_tiles);
  const bool few = blocks_of_rows * 2 <= device.multiprocessors;
  return few && blocks(shape.d_in, kColumnBlock) >= 8 ? 2 : 1;
}

int wide_variant(int tokens) {
  int variant = 0;
  while (variant + 1 < kWideConfigCount && tokens > 8 * kWideConfigs[variant].token_tiles) ++variant;
  return variant;
}

std::size_t workspace_for(const Nm24Shape& shape, const Nm24Plan& plan, int tokens) {
  const Nm24Workspace w = nm24_workspace(shape, plan, tokens);
  return w.sums + w.sum_bytes;
}

}  // namespace

Nm24Workspace nm24_workspace(const Nm24Shape& shape, const Nm24Plan& plan, int tokens) {
  const std::size_t groups = blocks(tokens, 8 * plan.token_tiles);
  const std::size_t lanes = groups * plan.token_tiles * shape.parts * rank_steps(shape) * 64 * 16;
  Nm24Workspace w{};
  w.shares = 256;
  w.sums = w.shares + lanes * kInnerSplits;
  w.sum_bytes = plan.kernel == Nm24Kernel::wide ? lanes : 0;
  return w;
}

Nm24Plan nm24_plan(const Nm24Shape& shape, int tokens, bool aligned_x, const Nm24Device& device) {
  Nm24Plan plan{};
  if (tokens > kDecodeMostTokens && wide_can(shape, aligned_x, device)) {
    plan.kernel = Nm24Kernel::wide;
    plan.variant = wide_variant(tokens);
    plan.token_tiles = kWideConfigs[plan.variant].token_tiles;
    plan.splits = splits_for(shape, kWideConfigs[plan.variant], tokens, device);
  } else {
    plan.kernel = Nm24Kernel::decode;
    plan.variant = tokens > 8 ? 1 : 0;
    plan.token_tiles = kDecodeConfigs[plan.variant].token_tiles;
    plan.splits = 1;
  }
  plan.workspace = workspace_for(shape, plan, tokens);
  return plan;
}

const char* nm24_name(const Nm24Plan& plan) { return plan.kernel == Nm24Kernel::wide ? "wide" : "decode"; }

}  // namespace sparlow::kernels
