// The planner is a pure function: no GPU needed.
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

#include "../../cuda/kernels/nm24_plan.hpp"

using namespace sparlow::kernels;

namespace {

constexpr Nm24Device kH100{90, 132}, kA100{80, 108}, kBlackwell{100, 148};

Nm24Shape layer(int d_out, int d_in, int rank = 64) {
  Nm24Shape shape{};
  shape.d_in = d_in, shape.rank = rank, shape.rows[0] = d_out;
  return shape;
}

void expect(bool ok, const char* what) {
  if (ok) return;
  std::printf("FAIL %s\n", what);
  std::exit(1);
}

Nm24Kernel kernel(const Nm24Shape& shape, int tokens, const Nm24Device& device = kH100, bool aligned = true) {
  return nm24_plan(shape, tokens, aligned, device).kernel;
}

void test_kernel() {
  const Nm24Shape square = layer(4096, 4096);
  expect(kernel(square, 1) == Nm24Kernel::decode && kernel(square, 8) == Nm24Kernel::decode, "few tokens");
  expect(kernel(square, 9) == Nm24Kernel::wide && kernel(square, 32) == Nm24Kernel::wide, "more tokens");
  expect(kernel(layer(6144, 4096), 64) == Nm24Kernel::wide, "most for the wide kernel");
  expect(kernel(square, 33) == Nm24Kernel::many, "half of the device would be idle");
  expect(kernel(layer(1024, 4096), 16) == Nm24Kernel::decode, "too few rows for the wide kernel");
  expect(kernel(square, 64, kA100) == Nm24Kernel::decode, "no warpgroups before sm_90");
  expect(kernel(square, 64, kBlackwell) == Nm24Kernel::decode, "no warpgroups after sm_90");
  expect(kernel(square, 64, kH100, false) == Nm24Kernel::decode, "x not aligned");
  expect(kernel(layer(4096, 4100), 64) == Nm24Kernel::decode, "rows of x not aligned");
  Nm24Shape stacked = layer(4096, 4096);
  stacked.parts = 2, stacked.rows[1] = 1000;
  expect(kernel(stacked, 64) == Nm24Kernel::wide, "only the last part may be ragged");
  stacked.rows[0] = 1056;
  expect(kernel(stacked, 64) == Nm24Kernel::decode, "blocks would straddle parts");
}

void test_splits() {
  expect(nm24_plan(layer(4096, 14336), 32, true, kH100).splits == 2, "long rows are split");
  expect(nm24_plan(layer(4096, 4096), 32, true, kH100).splits == 1, "short rows are not");
  expect(nm24_plan(layer(28672, 14336), 64, true, kH100).splits == 1, "many rows are not");
}

void test_many() {
  const Nm24Shape square = layer(4096, 4096);
  expect(kernel(square, 65) == Nm24Kernel::many && kernel(square, 8192) == Nm24Kernel::many, "very many tokens");
  expect(kernel(square, 65, kA100) == Nm24Kernel::decode, "portable");
  expect(kernel(square, 65, kH100, false) == Nm24Kernel::decode, "x not aligned");
  Nm24Shape stacked = layer(4096, 4096);
  stacked.parts = 2, stacked.rows[1] = 1000;
  expect(kernel(stacked, 100) == Nm24Kernel::many, "only the last part may be ragged");
  stacked.rows[0] = 4096 + 64;
  expect(kernel(stacked, 100) == Nm24Kernel::wide, "tiles would straddle parts");
}

ManyConfig tile(int d_out, int tokens) {
  return kManyConfigs[nm24_plan(layer(d_out, 4096), tokens, true, kH100).variant];
}

Nm24Plan many(int d_out, int tokens, int d_in = 4096) { return nm24_plan(layer(d_out, d_in), tokens, true, kH100); }

void test_tiles() {
  expect(tile(4096, 96).splits == 2 && tile(6144, 96).splits == 2, "columns are split while the device is half empty");
  expect(tile(4096, 384).tokens <= 128 && tile(4096, 384).splits == 1, "one wave of small tiles");
  expect(tile(4096, 768).tokens == 192 && tile(14336, 192).tokens == 192, "tiles as large as what there is");
  expect(tile(14336, 256).tokens == 256 && tile(14336, 256).cluster == 1, "one wave of large tiles");
  expect(tile(128256, 100).tokens <= 128, "no large tiles for few tokens");
  expect(tile(4096, 4096).tokens == 256 && tile(4096, 4096).cluster == 2, "blocks that queue share x");
  expect(tile(6144, 1536).cluster == 2 && tile(1024, 8192).cluster == 2, "so do smaller tiles");
}

void test_t() {
  expect(many(14336, 256).t_splits >= 1 && many(6144, 512).t_splits >= 2, "t beside tiles that leave room");
  expect(many(4096, 192).t_splits >= 2 && many(1024, 2048).t_splits >= 2, "in time for tiles that take little");
  expect(many(4096, 1024).t_splits == 1, "no more blocks than there is room for");
  expect(many(1024, 65, 576).t_splits == 0, "before the tiles where that takes little");
  expect(many(14336, 256).clusters == 0 && many(14336, 256).late == 0, "one tile a block");
  const Nm24Plan plan = many(28672, 8192);
  expect(plan.clusters == 66 && 2 * plan.late >= plan.t_splits * 8192 / plan.t_tokens, "some blocks begin later");
  expect(nm24_plan(layer(4096, 4096, 0), 1024, true, kH100).t_splits == 0, "no ranks, no t");
}

void test_rest() {
  expect(many(6144, 1024).head_tiles > 0 && many(14336, 1024).head_tiles > 0, "no round is half empty");
  expect(many(4096, 1024).head_tiles == 0 && many(28672, 8192).head_tiles == 0, "rounds that are full");
}

void check_many(const Nm24Shape& shape, const Nm24Plan& plan, int tokens) {
  expect(plan.variant >= 0 && plan.variant < kManyConfigCount, "variant");
  expect(many_t_columns(shape) >= shape.rank && many_t_columns(shape) % 8 == 0, "columns of t");
  expect(plan.scratch == std::size_t{2} * tokens * shape.parts * many_t_columns(shape), "room for t");
  expect(plan.workspace == 0, "workspace");
  expect(plan.clusters == 0 || kManyConfigs[plan.variant].splits == 1, "splits have one tile each");
  expect((plan.t_splits == 0) == (plan.t_tokens == 0) && plan.t_splits <= 8, "splits of t");
  expect(plan.late == 0 || (plan.late <= plan.clusters && plan.t_splits > 0), "late blocks");
  const ManyConfig &config = kManyConfigs[plan.variant], &rest = kManyConfigs[plan.rest_variant];
  const int rows = (shape.d_out() + kManyRows - 1) / kManyRows;
  expect(plan.head_tiles % config.cluster == 0 && plan.head_tiles < rows, "rows of the first launch");
  if (shape.parts > 1) expect(plan.head_tiles % rest.cluster == 0, "tiles of the rest, of one part");
  for (int p = 0; p + 1 < shape.parts; ++p) {
    expect(shape.rows[p] % (kManyRows * config.cluster) == 0, "tiles of one part");
    if (plan.head_tiles > 0) expect(shape.rows[p] % (kManyRows * rest.cluster) == 0, "tiles of one part");
  }
}

void check_few(const Nm24Shape& shape, const Nm24Plan& plan, int tokens) {
  const bool wide = plan.kernel == Nm24Kernel::wide;
  expect(plan.variant >= 0 && plan.variant < (wide ? kWideConfigCount : kDecodeConfigCount), "variant");
  expect(plan.splits == 1 || (wide && (plan.splits == 2 || plan.splits == 4)), "splits");
  const int tiles = wide ? kWideConfigs[plan.variant].token_tiles : kDecodeConfigs[plan.variant].token_tiles;
  expect(tiles == plan.token_tiles, "token tiles");
  const Nm24Workspace w = nm24_workspace(shape, plan, tokens);
  expect(w.shares >= 8 && w.sums >= w.shares && w.end == plan.workspace && w.sums % 16 == 0, "workspace");
  expect(shape.rank > 0 || plan.workspace == w.shares, "rank 0 needs no room for t");
  expect(plan.scratch == 0, "scratch");
}

void check(const Nm24Shape& shape, int tokens, const Nm24Device& device) {
  const Nm24Plan plan = nm24_plan(shape, tokens, true, device);
  if (plan.kernel == Nm24Kernel::many) check_many(shape, plan, tokens);
  else check_few(shape, plan, tokens);
}

Nm24Shape stack(int rows, int others, int d_in) {
  Nm24Shape shape = layer(rows, d_in);
  shape.parts = 3, shape.rows[1] = shape.rows[2] = others;
  return shape;
}

// Whatever the shape: a configuration that exists, a power of two of splits, tiles that cover a group.
void test_all() {
  for (const Nm24Device& device : {kH100, kA100})
    for (int d_out : {1, 33, 1024, 4096, 28672})
      for (int d_in : {4, 576, 4096, 14336})
        for (int rank : {0, 1, 64, 200})
          for (int tokens : {1, 3, 8, 9, 16, 17, 33, 64, 65, 129, 8192})
            check(layer(d_out, d_in, rank), tokens, device);
  for (int tokens = 65; tokens < 10000; tokens += 37)
    check(stack(4096, 1024, 4096), tokens, kH100), check(stack(2048, 384, 2048), tokens, kH100);
}

}  // namespace

int main() {
  test_kernel();
  test_splits();
  test_many();
  test_tiles();
  test_t();
  test_rest();
  test_all();
  std::printf("ok\n");
}
