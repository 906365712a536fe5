// Bitmaps and signed terms: configurations of the kernel against float64, cuBLAS bf16 in the same run and the bytes.
//
//   nvcc -std=c++20 -O3 -gencode=arch=compute_90a,code=sm_90a ladder.cu -o ladder
#include "../../../cuda/kernels/bits_decode.cuh"
#include "../decode_nm24/harness.cuh"

using namespace ladder;

constexpr int kRank = 64, kMaxTokens = 8;

__host__ __device__ inline bool kept(int row, int col) { return mix((row * 65537ull + col) * 0x9e3779b97f4a7c15ull) & 1; }
__host__ __device__ inline bool minus(int row, int col) { return mix((row * 70001ull + col) * 0x9e3779b97f4a7c15ull + 7) & 1; }

// s as a dense matrix; what the mask leaves out is zero.
__global__ void mask_values(Bf16* w, int d_out, int d_in) {
  const std::size_t n = static_cast<std::size_t>(d_out) * d_in;
  for (std::size_t i = blockIdx.x * 256ull + threadIdx.x; i < n; i += gridDim.x * 256ull)
    if (!kept(int(i / d_in), int(i % d_in))) w[i] = __float2bfloat16(0.f);
}
__global__ void count_values(std::uint32_t* units, int column_blocks, int head) {
  const int rb = blockIdx.x / column_blocks, cb = blockIdx.x % column_blocks;
  __shared__ int total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  int mine = 0;
  for (int e = threadIdx.x; e < 4096; e += 256) mine += kept(rb * 32 + e / 128, cb * 128 + e % 128);
  atomicAdd(&total, mine);
  __syncthreads();
  if (threadIdx.x == 0) units[blockIdx.x] = (head + 2 * total + 15) / 16;
}
__global__ void pack_block(std::uint32_t* out, const std::uint32_t* offsets, const Bf16* w, int d_in, bool with_signs) {
  const int columns = d_in / 128, rb = blockIdx.x / columns, cb = blockIdx.x % columns;
  std::uint32_t* block = out + 4ull * offsets[blockIdx.x];
  auto* values = reinterpret_cast<Bf16*>(block + kMaskWords + (with_signs ? kSignBytes / 4 : 0));
  const int lane = threadIdx.x;
  int before = 0;
  for (int c = 0; c < kChunks; ++c) {
    unsigned nibble = 0;
    for (int e = 0; e < 4; ++e) {
      const Place p = place_in_chunk(c, lane, e);
      nibble |= kept(rb * 32 + p.row, cb * 128 + p.col) << e;
    }
    int sum = __popc(nibble);
    for (int i = 1; i < 32; i *= 2) {
      const int below = __shfl_up_sync(~0u, sum, i);
      if (lane >= i) sum += below;
    }
    int at = before + sum - __popc(nibble);
    for (int e = 0; e < 4; ++e) {
      const Place p = place_in_chunk(c, lane, e);
      if (nibble >> e & 1) values[at++] = w[static_cast<std::size_t>(rb * 32 + p.row) * d_in + cb * 128 + p.col];
    }
    before += __shfl_sync(~0u, sum, 31);
    unsigned word = nibble << (4 * (lane % 8));
    for (int i = 1; i < 8; i *= 2) word |= __shfl_xor_sync(~0u, word, i);
    if (lane % 8 == 0) block[4 * c + lane / 8] = word;
  }
  for (int w4 = 0; with_signs && w4 < 4; ++w4) {
    unsigned word = 0;
    for (int b = 0; b < 32; ++b) {
      const Place p = place_of_sign(w4, lane, b);
      word |= unsigned(minus(rb * 32 + p.row, cb * 128 + p.col)) << b;
    }
    block[kMaskWords + 4 * lane + w4] = word;
  }
}
__global__ void pack_sign_v(std::uint32_t* out, const Bf16* v, int d_in, int signs) {
  const int cb = blockIdx.x, q = threadIdx.x / 16, step = threadIdx.x / 4 % 4, part = threadIdx.x % 4;
  for (int k = 0; k < signs; ++k) {
    const int col = cb * 128 + step * 32 + part / 2 * 16 + 2 * q + 8 * (part % 2);
    const auto* p = reinterpret_cast<const std::uint16_t*>(v) + static_cast<std::size_t>(k) * d_in + col;
    out[(((static_cast<std::size_t>(cb) * signs + k) * 4 + q) * 4 + step) * 4 + part] = p[0] | p[1] << 16;
  }
}
// One warp an output.
__global__ void reference_bits(double* y, const Bf16* x, const Bf16* w, const Bf16* u, const double* t, const Bf16* su,
                               const Bf16* sv, int d_out, int d_in, int tokens, int signs) {
  const int lane = threadIdx.x % 32, row = blockIdx.x * 8 + threadIdx.x / 32, token = blockIdx.y;
  double sum = 0;
  for (int c = lane; c < d_in; c += 32) {
    double weight = __bfloat162float(w[static_cast<std::size_t>(row) * d_in + c]);
    for (int k = 0; k < signs; ++k) {
      const double term = double(__bfloat162float(su[row * signs + k])) * double(__bfloat162float(sv[k * d_in + c]));
      weight += minus(row, c) ? -term : term;
    }
    sum += weight * double(__bfloat162float(x[static_cast<std::size_t>(token) * d_in + c]));
  }
  for (int r = lane; r < kRank; r += 32) sum += double(__bfloat162float(u[row * kRank + r])) * t[r * tokens + token];
  for (int i = 16; i; i /= 2) sum += __shfl_xor_sync(~0u, sum, i);
  if (lane == 0) y[static_cast<std::size_t>(token) * d_out + row] = sum;
}

struct Bits {
  int d_out, d_in, signs, copies, capacity = 0;
  std::size_t units = 0;
  std::uint32_t *packed, *offsets, *u, *v, *sign_v_packed;
  Bf16 *w, *u_plain, *v_plain, *su, *sv, *x, *y;
  unsigned char* mail;
  double *t64, *y64;

  Bits(int d_out, int d_in, int signs) : d_out(d_out), d_in(d_in), signs(signs) {
    const int n = d_out / 32 * (d_in / 128), head = kMaskBytes + (signs ? kSignBytes : 0);
    offsets = device<std::uint32_t>(n + 1);
    count_values<<<n, 256>>>(offsets, d_in / 128, head);
    std::vector<std::uint32_t> host(n + 1);
    CHECK(cudaMemcpy(host.data(), offsets, 4ull * n, cudaMemcpyDeviceToHost));
    for (int i = 0; i < n; ++i) {
      const std::uint32_t size = host[i];
      capacity = std::max(capacity, int(size) * 16);
      host[i] = std::uint32_t(units), units += size;
    }
    host[n] = std::uint32_t(units);
    capacity = (capacity + 127) / 128 * 128;
    CHECK(cudaMemcpy(offsets, host.data(), 4ull * (n + 1), cudaMemcpyHostToDevice));
    copies = int(420e6 / (16. * units)) + 1;
    packed = device<std::uint32_t>(4 * units * copies);
    w = device<Bf16>(std::size_t(d_out) * d_in);
    u_plain = device<Bf16>(d_out * kRank), v_plain = device<Bf16>(kRank * d_in);
    su = device<Bf16>(d_out * 4), sv = device<Bf16>(4 * d_in);
    x = device<Bf16>(kMaxTokens * d_in), y = device<Bf16>(kMaxTokens * d_out);
    u = device<std::uint32_t>(u_words(d_out, kRank)), v = device<std::uint32_t>(v_words(kRank, d_in));
    sign_v_packed = device<std::uint32_t>(d_in / 128 * 64 * 4);
    mail = device<unsigned char>(1 << 22);
    CHECK(cudaMemset(mail, 0, 1 << 22));
    t64 = device<double>(kRank * kMaxTokens), y64 = device<double>(std::size_t(d_out) * kMaxTokens);
    fill_values<<<1024, 256>>>(w, std::size_t(d_out) * d_in, 1, .03f);
    mask_values<<<1024, 256>>>(w, d_out, d_in);
    fill_values<<<1024, 256>>>(u_plain, d_out * kRank, 3, .1f);
    fill_values<<<1024, 256>>>(v_plain, kRank * d_in, 4, .02f);
    fill_values<<<1024, 256>>>(su, d_out * 4, 6, .2f);
    fill_values<<<1024, 256>>>(sv, 4 * d_in, 7, .2f);
    fill_values<<<1024, 256>>>(x, kMaxTokens * d_in, 5, 1.f);
    pack_u<<<512, 256>>>(u, Dense16{reinterpret_cast<std::uint16_t*>(u_plain), d_out, kRank}, u_words(d_out, kRank));
    pack_v<<<512, 256>>>(v, Dense16{reinterpret_cast<std::uint16_t*>(v_plain), kRank, d_in}, v_words(kRank, d_in));
    if (signs) pack_sign_v<<<d_in / 128, 64>>>(sign_v_packed, sv, d_in, signs);
    pack_block<<<n, 32>>>(packed, offsets, w, d_in, signs > 0);
    for (int c = 1; c < copies; ++c)
      CHECK(cudaMemcpy(packed + 4 * units * c, packed, 16 * units, cudaMemcpyDeviceToDevice));
    CHECK(cudaDeviceSynchronize());
  }
  ~Bits() {
    for (void* p : {(void*)packed, (void*)offsets, (void*)u, (void*)v, (void*)sign_v_packed, (void*)w, (void*)u_plain,
                    (void*)v_plain, (void*)su, (void*)sv, (void*)x, (void*)y, (void*)mail, (void*)t64, (void*)y64})
      cudaFree(p);
  }
  BitsArgs args(int copy, int tokens) const {
    BitsArgs b{};
    ForwardArgs& a = b.common;
    a.weights = reinterpret_cast<const uint4*>(packed + 4 * units * copy);
    a.u = reinterpret_cast<const uint4*>(u), a.v = reinterpret_cast<const uint4*>(v);
    a.x = x, a.y = y, a.progress = reinterpret_cast<Progress*>(mail), a.t_shares = reinterpret_cast<Mailbox*>(mail + 256);
    a.d_out = d_out, a.d_in = d_in, a.tokens = tokens, a.group_tiles = 1, a.wide_x = true, a.splits = 1;
    a.column_blocks = d_in / 128, a.rank_steps = kRank / 16, a.parts = 1;
    for (int& end : a.part_end) end = 1 << 30;
    b.offsets = offsets, b.sign_v = reinterpret_cast<const uint4*>(sign_v_packed), b.sign_u = su;
    b.block_capacity = capacity;
    return b;
  }
  void make_reference(int tokens) {
    reference_t<<<dim3(kRank, tokens), 32>>>(t64, x, v_plain, kRank, d_in, tokens);
    reference_bits<<<dim3(d_out / 8, tokens), 256>>>(y64, x, w, u_plain, t64, su, sv, d_out, d_in, tokens, signs);
    CHECK(cudaDeviceSynchronize());
  }
  double error(int tokens) const {
    std::vector<Bf16> got(std::size_t(tokens) * d_out);
    std::vector<double> want(got.size());
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaMemcpy(got.data(), y, got.size() * 2, cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(want.data(), y64, want.size() * 8, cudaMemcpyDeviceToHost));
    double difference = 0, norm = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double d = double(__bfloat162float(got[i])) - want[i];
      difference += d * d, norm += want[i] * want[i];
    }
    return std::sqrt(difference / norm);
  }
};

template <int kWarps, int kStages, int kSigns>
void measure(Bits& layer, int tokens, double dense, cudaStream_t stream) {
  auto kernel = bits_kernel<Bf16, 1, kWarps, kStages, kSigns>;
  const int shared = kWarps * bits_warp_bytes<1, kStages>(layer.capacity, tokens);
  if (shared > 226 * 1024) return;
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 226 * 1024));
  const auto run = [&](int copy, cudaStream_t s) {
    BitsArgs b = layer.args(copy, tokens);
    const int rows = layer.d_out / 32;
    b.common.first_block = b.common.rank_steps * kInnerSplits;
    b.common.t_users = rows * std::min(kWarps, b.common.rank_steps);
    launch(kernel, dim3(b.common.first_block + rows), kWarps * 32, shared, 1, false, s, b);
  };
  CHECK(cudaMemset(layer.y, 0xff, 2ull * tokens * layer.d_out));
  run(0, stream);
  const double error = layer.error(tokens);
  const double us = microseconds(run, layer.copies, stream);
  const double bytes = 16. * layer.units + 2. * kRank * (layer.d_out + layer.d_in);
  std::printf("%dx%d,signs %d,tokens %d,warps %d,stages %d,shared %d,%.2f,%.2f,%.3f,%.0f GB/s,%.2e\n", layer.d_out,
              layer.d_in, kSigns, tokens, kWarps, kStages, shared, dense, us, dense / us, 1e-3 * bytes / us, error);
  std::fflush(stdout);
}

template <int kSigns>
void shapes(const Cublas& cublas, cudaStream_t stream, const std::vector<int>& token_counts) {
  const int sizes[][2] = {{4096, 4096}, {14336, 4096}, {4096, 14336}};
  for (const auto& size : sizes) {
    Bits layer(size[0], size[1], kSigns);
    const std::size_t n = std::size_t(size[0]) * size[1];
    const int dense_copies = int(420e6 / (2. * n)) + 2;
    Bf16* dense = device<Bf16>(n * dense_copies);
    for (int c = 0; c < dense_copies; ++c) CHECK(cudaMemcpy(dense + n * c, layer.w, 2 * n, cudaMemcpyDeviceToDevice));
    for (int tokens : token_counts) {
      layer.make_reference(tokens);
      const double base = microseconds(
          [&](int c, cudaStream_t) { cublas.linear(dense + n * c, layer.x, layer.y, size[0], size[1], tokens); },
          dense_copies, stream);
      measure<8, 1, kSigns>(layer, tokens, base, stream);
      measure<8, 2, kSigns>(layer, tokens, base, stream);
      measure<16, 1, kSigns>(layer, tokens, base, stream);
      measure<4, 2, kSigns>(layer, tokens, base, stream);
      measure<4, 3, kSigns>(layer, tokens, base, stream);
    }
    CHECK(cudaFree(dense));
  }
}

int main() {
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  const Cublas cublas(stream);
  std::printf("shape,signs,tokens,warps,stages,shared,dense us,us,times dense,bandwidth,error\n");
  shapes<0>(cublas, stream, {1, 4, 8});
  shapes<1>(cublas, stream, {1, 4});
  shapes<2>(cublas, stream, {1});
}
