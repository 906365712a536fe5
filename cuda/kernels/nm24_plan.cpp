// Which kernel runs a layer. Pure host code; what is behind the numbers: bench/ladders/decode_nm24.
#include "nm24_plan.hpp"

#include "nm24_layout.hpp"

namespace sparlow::kernels {
namespace {

constexpr int kTile = 8;  // tokens
constexpr int kWideRows = 64;
constexpr int kMostForWide = 64;

// Warpgroup products exist on sm_90 alone, the tensor copy of x wants rows at multiples of 16 bytes, and a block's rows
// may not straddle two parts.
bool wide_can(const Nm24Shape& shape, bool aligned_x, const Nm24Device& device) {
  for (int p = 0; p + 1 < shape.parts; ++p)
    if (shape.rows[p] % kWideRows != 0) return false;
  return device.arch == 90 && aligned_x && shape.d_in % 8 == 0;
}

// Up to 8 tokens a weight block of 32 rows costs no more than its bytes; so it does up to 16 where the 64 rows of the
// wide kernel would leave most of the device idle.
bool decode_is_faster(const Nm24Shape& shape, int tokens, const Nm24Device& device) {
  return tokens <= kTile || (tokens <= 2 * kTile && blocks(shape.d_out(), kRowBlock) * 2 <= device.multiprocessors);
}

// Two blocks share the columns of 128 rows there, so that it fills more of the device.
bool many_is_faster(const Nm24Shape& shape, int tokens, const Nm24Device& device) {
  return tokens > kMostForWide ||
         (tokens > kMostForWide / 2 && blocks(shape.d_out(), kWideRows) * 2 <= device.multiprocessors);
}

int decode_variant(const Nm24Shape& shape, int tokens, const Nm24Device& device) {
  if (tokens > kTile) return 2;
  return blocks(shape.d_out(), kRowBlock) <= device.multiprocessors ? 0 : 1;
}

void plan_wide(Nm24Plan& plan, const Nm24Shape& shape, int tokens, const Nm24Device& device) {
  const int size = tokens <= 2 * kTile ? 0 : tokens <= 4 * kTile ? 1 : 2;
  const int row_blocks = blocks(shape.d_out(), kWideRows), columns = blocks(shape.d_in, kColumnBlock);
  // Splitting costs a cluster two barriers at the end: it pays for long rows.
  if (row_blocks * 4 <= device.multiprocessors) plan.splits = columns >= 16 ? 4 : 1;
  else plan.splits = row_blocks * 2 <= device.multiprocessors && columns >= 64 ? 2 : 1;
  const bool deep = plan.splits == 1 && (size == 0 || row_blocks <= device.multiprocessors);
  plan.variant = 2 * size + deep;
}

}  // namespace

Nm24Workspace nm24_workspace(const Nm24Shape& shape, const Nm24Plan& plan, int tokens) {
  const std::size_t groups = blocks(tokens, kTile * plan.token_tiles);
  const std::size_t sums = groups * plan.token_tiles * shape.parts * blocks(shape.rank, kRankBlock) * 1024;
  Nm24Workspace w{};
  w.shares = 256;
  w.sums = w.shares + sums * kInnerSplits;
  w.end = w.sums + (plan.kernel == Nm24Kernel::wide ? sums : 0);
  return w;
}

Nm24Plan nm24_plan(const Nm24Shape& shape, int tokens, bool aligned_x, const Nm24Device& device) {
  Nm24Plan plan{};
  plan.splits = 1;
  if (many_can(shape, aligned_x, device) && many_is_faster(shape, tokens, device))
    return many_plan(shape, tokens, device);
  if (wide_can(shape, aligned_x, device) && !decode_is_faster(shape, tokens, device)) {
    plan.kernel = Nm24Kernel::wide;
    plan_wide(plan, shape, tokens, device);
    plan.token_tiles = kWideConfigs[plan.variant].token_tiles;
  } else {
    plan.kernel = Nm24Kernel::decode;
    plan.variant = decode_variant(shape, tokens, device);
    plan.token_tiles = kDecodeConfigs[plan.variant].token_tiles;
  }
  plan.workspace = nm24_workspace(shape, plan, tokens).end;
  return plan;
}

const char* nm24_name(const Nm24Plan& plan) {
  constexpr const char* names[] = {"decode", "wide", "many"};
  return names[static_cast<int>(plan.kernel)];
}

}  // namespace sparlow::kernels
