// Bitmaps and signed terms: configurations of the kernel against float64, cuBLAS bf16 in the same run and the bytes.
//
//   nvcc -std=c++20 -O3 -gencode=arch=compute_90a,code=sm_90a ladder.cu ../../../cuda/kernels/bits_pack.cu -o ladder
#include <utility>

#include "../../../cuda/kernels/bits_decode.cuh"
#include "../../../cuda/kernels/bits_tables.cuh"
#include "../decode_nm24/harness.cuh"

using namespace ladder;

constexpr int kRank = 64, kMaxTokens = 16;

__global__ void fill_bytes(std::uint8_t* p, std::size_t n, std::uint64_t seed) {
  for (std::size_t i = blockIdx.x * 256ull + threadIdx.x; i < n; i += gridDim.x * 256ull)
    p[i] = static_cast<std::uint8_t>(mix(seed * 0x9e3779b97f4a7c15ull + i * 0xd1b54a32d192ed03ull));
}
// s as a dense matrix from the checkpoint's tensors: one thread a row, starts from the host.
__global__ void dense_rows(Bf16* w, const Bf16* values, const std::uint8_t* meta, const std::size_t* starts, int d_out,
                           int d_in) {
  const int row = blockIdx.x * 64 + threadIdx.x;
  if (row >= d_out) return;
  std::size_t next = starts[row];
  for (int c = 0; c < d_in; ++c) {
    const bool set = meta[static_cast<std::size_t>(row) * (d_in / 8) + c / 8] >> (c % 8) & 1;
    w[static_cast<std::size_t>(row) * d_in + c] = set ? values[next++] : __float2bfloat16(0.f);
  }
}
__global__ void dense_nm24(Bf16* w, CheckpointNm24 s) {
  const std::size_t i = blockIdx.x * 256ull + threadIdx.x;
  const int row = int(i / (s.d_in / 4)), group = int(i % (s.d_in / 4));
  const std::uint32_t pair = s.pair(row, group), nibble = s.nibble(row, group);
  auto* to = w + 4 * i;
  for (int k = 0; k < 4; ++k) to[k] = __float2bfloat16(0.f);
  to[nibble & 3] = __ushort_as_bfloat16(pair & 0xffff), to[nibble >> 2] = __ushort_as_bfloat16(pair >> 16);
}
// One warp an output.
__global__ void reference_bits(double* y, const Bf16* x, const Bf16* w, const Bf16* u, const double* t,
                               const std::uint8_t* bits, const Bf16* su, const Bf16* sv, int d_out, int d_in,
                               int tokens, int signs) {
  const int lane = threadIdx.x % 32, row = blockIdx.x * 8 + threadIdx.x / 32, token = blockIdx.y;
  double sum = 0;
  for (int c = lane; c < d_in; c += 32) {
    double weight = __bfloat162float(w[static_cast<std::size_t>(row) * d_in + c]);
    const bool plus = bits[static_cast<std::size_t>(row) * (d_in / 8) + c / 8] >> (c % 8) & 1;
    for (int k = 0; k < signs; ++k) {
      const double term = double(__bfloat162float(su[row * signs + k])) * double(__bfloat162float(sv[k * d_in + c]));
      weight += plus ? term : -term;
    }
    sum += weight * double(__bfloat162float(x[static_cast<std::size_t>(token) * d_in + c]));
  }
  for (int r = lane; r < kRank; r += 32) sum += double(__bfloat162float(u[row * kRank + r])) * t[r * tokens + token];
  for (int i = 16; i; i /= 2) sum += __shfl_xor_sync(~0u, sum, i);
  if (lane == 0) y[static_cast<std::size_t>(token) * d_out + row] = sum;
}

struct Bits {
  BitsShape shape{};
  int copies = 0, multiprocessors = 0;
  std::size_t bytes = 0;  // of a packed copy
  BitsPacked packed{};    // copy 0; the others follow, everything in one piece
  BitsTensors plain{};
  Bf16 *w, *x, *y;
  unsigned char* mail;
  double *t64, *y64;
  std::vector<void*> memory;

  template <typename T>
  T* take(std::size_t n) {
    memory.push_back(device<T>(n));
    return static_cast<T*>(memory.back());
  }

  Bits(int d_out, int d_in, int signs, bool bitmap) {
    const std::size_t n = std::size_t(d_out) * d_in;
    CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
    plain.meta = take<std::uint8_t>(n / 8), plain.sign_bits = take<std::uint8_t>(n / 8);
    fill_bytes<<<1024, 256>>>(plain.meta, n / 8, 11);
    fill_bytes<<<1024, 256>>>(plain.sign_bits, n / 8, 12);
    if (!bitmap) fill_nibbles<<<1024, 256>>>(reinterpret_cast<std::uint32_t*>(plain.meta), n / 32, 2);
    std::vector<std::uint8_t> meta(n / 8);
    CHECK(cudaMemcpy(meta.data(), plain.meta, n / 8, cudaMemcpyDeviceToHost));
    std::vector<std::size_t> starts(d_out + 1);
    for (int r = 0; r < d_out; ++r) {
      starts[r + 1] = starts[r];
      for (int b = 0; b < d_in / 8; ++b) starts[r + 1] += __builtin_popcount(meta[std::size_t(r) * (d_in / 8) + b]);
    }
    shape = {d_out, d_in, kRank, signs, bitmap, bitmap ? starts[d_out] : n / 2, 1152};  // 1024 and five sigma more
    w = take<Bf16>(n), x = take<Bf16>(kMaxTokens * d_in), y = take<Bf16>(kMaxTokens * d_out);
    plain.values = take<Bf16>(shape.stored), plain.u = take<Bf16>(d_out * kRank), plain.v = take<Bf16>(kRank * d_in);
    plain.sign_u = take<Bf16>(d_out * 4), plain.sign_v = take<Bf16>(4 * d_in);
    fill_values<<<1024, 256>>>(static_cast<Bf16*>(plain.values), shape.stored, 1, .03f);
    fill_values<<<1024, 256>>>(static_cast<Bf16*>(plain.u), d_out * kRank, 3, .1f);
    fill_values<<<1024, 256>>>(static_cast<Bf16*>(plain.v), kRank * d_in, 4, .02f);
    fill_values<<<1024, 256>>>(static_cast<Bf16*>(plain.sign_u), d_out * 4, 6, .2f);
    fill_values<<<1024, 256>>>(static_cast<Bf16*>(plain.sign_v), 4 * d_in, 7, .2f);
    fill_values<<<1024, 256>>>(x, kMaxTokens * d_in, 5, 1.f);
    const auto* values = static_cast<const Bf16*>(plain.values);
    auto* on_device = take<std::size_t>(d_out + 1);
    CHECK(cudaMemcpy(on_device, starts.data(), 8 * (d_out + 1), cudaMemcpyHostToDevice));
    if (bitmap) dense_rows<<<(d_out + 63) / 64, 64>>>(w, values, plain.meta, on_device, d_out, d_in);
    else
      dense_nm24<<<unsigned(n / 4 / 256), 256>>>(
          w, CheckpointNm24{static_cast<const std::uint16_t*>(plain.values), plain.meta, d_out, d_in});
    const BitsBytes size = bits_bytes(shape);
    const auto round = [](std::size_t n) { return (n + 255) / 256 * 256; };
    bytes = round(size.offsets) + round(size.blocks) + round(size.u) + round(size.v) + round(size.sign_v) +
            round(size.sign_u);
    copies = int(420e6 / bytes) + 1;
    auto* next = take<char>(bytes * copies);
    const auto piece = [&](std::size_t n) { return std::exchange(next, next + round(n)); };
    packed.offsets = reinterpret_cast<std::uint32_t*>(piece(size.offsets)), packed.blocks = piece(size.blocks);
    packed.u = piece(size.u), packed.v = piece(size.v);
    packed.sign_v = piece(size.sign_v), packed.sign_u = piece(size.sign_u);
    CHECK(bits_pack(shape, plain, packed, take<char>(bits_scratch_bytes(shape)), nullptr));
    auto* first = reinterpret_cast<char*>(packed.offsets);
    for (int c = 1; c < copies; ++c) CHECK(cudaMemcpy(first + bytes * c, first, bytes, cudaMemcpyDeviceToDevice));
    mail = take<unsigned char>(1 << 22);
    CHECK(cudaMemset(mail, 0, 1 << 22));
    t64 = take<double>(kRank * kMaxTokens), y64 = take<double>(std::size_t(d_out) * kMaxTokens);
    CHECK(cudaDeviceSynchronize());
  }
  ~Bits() {
    for (void* p : memory) cudaFree(p);
  }
  BitsArgs args(int copy, int tokens, int tiles) const {
    BitsArgs b{};
    ForwardArgs& a = b.common;
    const auto of_copy = [&](const void* p) { return static_cast<const char*>(p) + bytes * copy; };
    a.weights = reinterpret_cast<const uint4*>(of_copy(packed.blocks));
    a.u = reinterpret_cast<const uint4*>(of_copy(packed.u)), a.v = reinterpret_cast<const uint4*>(of_copy(packed.v));
    a.x = x, a.y = y, a.progress = reinterpret_cast<Progress*>(mail),
    a.t_shares = reinterpret_cast<Mailbox*>(mail + 256);
    a.d_out = shape.d_out, a.d_in = shape.d_in, a.tokens = tokens, a.group_tiles = tiles, a.wide_x = true, a.splits = 1;
    a.column_blocks = blocks(shape.d_in, kColumnBlock), a.rank_steps = kRank / 16, a.parts = 1;
    for (int& end : a.part_end) end = 1 << 30;
    b.offsets = reinterpret_cast<const std::uint32_t*>(of_copy(packed.offsets));
    b.sign_v = reinterpret_cast<const uint4*>(of_copy(packed.sign_v)), b.sign_u = of_copy(packed.sign_u);
    b.sign_rank = shape.sign_rank;
    b.block_capacity = block_capacity(shape);
    return b;
  }
  void make_reference(int tokens) {
    reference_t<<<dim3(kRank, tokens), 32>>>(t64, x, static_cast<Bf16*>(plain.v), kRank, shape.d_in, tokens);
    reference_bits<<<dim3(shape.d_out / 8, tokens), 256>>>(
        y64, x, w, static_cast<Bf16*>(plain.u), t64, plain.sign_bits, static_cast<Bf16*>(plain.sign_u),
        static_cast<Bf16*>(plain.sign_v), shape.d_out, shape.d_in, tokens, shape.sign_rank);
    CHECK(cudaDeviceSynchronize());
  }
  double error(int tokens) const { return relative_error(y, y64, std::size_t(tokens) * shape.d_out); }
};

bool profiling = false;

template <bool kBitmap, int kTiles, int kWarps, int kStages, int kSigns, int kResident = 1>
void measure(Bits& layer, int tokens, double dense, cudaStream_t stream) {
  auto kernel = bits_kernel<Bf16, kBitmap, kTiles, kWarps, kStages, kSigns, kResident>;
  const int capacity = layer.args(0, tokens, kTiles).block_capacity;
  const int shared = kWarps * bits_warp_bytes<kBitmap, kTiles, kStages>(capacity, tokens);
  if (shared > 226 * 1024) return;
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 226 * 1024));
  const auto run = [&](int copy, cudaStream_t s) {
    BitsArgs b = layer.args(copy, tokens, kTiles);
    const int groups = blocks(tokens, 8 * kTiles), rows = blocks(layer.shape.d_out, 16 * kRowTiles<kBitmap>) * groups;
    b.t_units = b.common.rank_steps * groups * kInnerSplits;
    const int room = kResident < 2 ? 0 : kResident * layer.multiprocessors;
    b.common.first_block = t_blocks(b.t_units, rows, room);
    b.common.t_users = rows * std::min(kWarps, b.common.rank_steps);
    launch(kernel, dim3(b.common.first_block + rows), kWarps * 32, shared, 1, false, s, b);
  };
  CHECK(cudaMemset(layer.y, 0xff, 2ull * tokens * layer.shape.d_out));
  run(0, stream);
  const double error = layer.error(tokens);
  if (profiling) return void(std::printf("%d %d %d %.2e\n", kWarps, kStages, kResident, error));
  const double us = microseconds(run, layer.copies, stream);
  const double hot = microseconds([&](int, cudaStream_t s) { run(0, s); }, 24, stream);
  std::printf("%s,%dx%d,%d,%d,%d,%d,%d,%d,%d,%d,%.2f,%.2f,%.3f,%.0f,%.2f,%.2e\n", kBitmap ? "bitmap" : "nm24",
              layer.shape.d_out, layer.shape.d_in, kSigns, tokens, 16 * kRowTiles<kBitmap>, kTiles, kWarps, kStages,
              kResident, shared, dense, us, dense / us, 1e-3 * layer.bytes / us, hot, error);
  std::fflush(stdout);
}

template <bool kBitmap, int kSigns>
void shapes(const Cublas& cublas, cudaStream_t stream, const std::vector<int>& token_counts) {
  const int sizes[][2] = {{4096, 4096}, {6144, 4096}, {14336, 4096}, {28672, 4096}, {4096, 14336}};
  for (const auto& size : sizes) {
    Bits layer(size[0], size[1], kSigns, kBitmap);
    const std::size_t n = std::size_t(size[0]) * size[1];
    const int dense_copies = int(420e6 / (2. * n)) + 2;
    Bf16* dense = device<Bf16>(n * dense_copies);
    for (int c = 0; c < dense_copies; ++c) CHECK(cudaMemcpy(dense + n * c, layer.w, 2 * n, cudaMemcpyDeviceToDevice));
    for (int tokens : token_counts) {
      layer.make_reference(tokens);
      const double base = microseconds(
          [&](int c, cudaStream_t) { cublas.linear(dense + n * c, layer.x, layer.y, size[0], size[1], tokens); },
          dense_copies, stream);
#define TRY(...) measure<kBitmap, __VA_ARGS__>(layer, tokens, base, stream)
      if constexpr (!kBitmap) {
        if (tokens <= 8) {
          TRY(1, 8, 1, kSigns);
          TRY(1, 16, 1, kSigns);
        } else {
          TRY(2, 8, 1, kSigns);
          TRY(2, 16, 1, kSigns);
        }
      } else if (tokens <= 8) {
        TRY(1, 16, 1, kSigns, 2);
        TRY(1, 16, 2, kSigns, 2);
        TRY(1, 12, 1, kSigns, 2);
        TRY(1, 11, 1, kSigns, 2);
        TRY(1, 8, 1, kSigns, 4);
        TRY(1, 8, 1, kSigns, 3);
        TRY(1, 4, 1, kSigns, 8);
        TRY(1, 4, 1, kSigns, 7);
        TRY(1, 4, 2, kSigns, 7);
      } else {
        TRY(2, 16, 1, kSigns, 1);
        TRY(2, 8, 1, kSigns, 3);
        TRY(2, 4, 1, kSigns, 8);
      }
    }
    CHECK(cudaFree(dense));
  }
}

template <int kSigns>
void profile(int d_out, int d_in, cudaStream_t stream) {
  Bits layer(d_out, d_in, kSigns, true);
  for (int tokens : {1, 4}) {
    layer.make_reference(tokens);
    measure<true, 1, 16, 1, kSigns, 2>(layer, tokens, 0, stream);
    measure<true, 1, 4, 1, kSigns, 8>(layer, tokens, 0, stream);
    measure<true, 1, 4, 1, kSigns, 7>(layer, tokens, 0, stream);
  }
}

int main(int argc, char**) {
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  if (argc > 1) {
    profiling = true;
    profile<0>(14336, 4096, stream), profile<1>(14336, 4096, stream), profile<0>(4096, 4096, stream);
    return 0;
  }
  const Cublas cublas(stream);
  std::printf(
      "format,shape,signs,tokens,rows,tiles,warps,stages,resident,shared,dense_us,us,times_dense,gbytes_per_s,"
      "hot_us,error\n");
  shapes<true, 0>(cublas, stream, {1, 2, 4, 8, 16});
  shapes<true, 1>(cublas, stream, {1, 4, 16});
  shapes<false, 1>(cublas, stream, {1, 4, 16});
  shapes<false, 4>(cublas, stream, {1, 4});
}
