// Bitmaps and signs between the checkpoint's layout and bits_layout.hpp, both ways.
#include "bits_tables.cuh"
#include "fill.cuh"

namespace sparlow::kernels {
namespace {

constexpr int kScanThreads = 1024;

// Set bits of every block of 128 columns of a row. One thread each.
__global__ void count_kernel(BitTable table, std::uint32_t* counts, std::size_t n) {
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const int first = static_cast<int>(i % table.columns()) * kColumnBlock;
  counts[i] = table.count(static_cast<int>(i / table.columns()), first, min(first + kColumnBlock, table.d_in));
}

// Size of each packed block in units of 16 bytes, or what they all have.
__global__ void size_kernel(const std::uint32_t* counts, int d_out, int columns, int head, int same,
                            std::uint32_t* units, int n) {
  const int block = blockIdx.x * blockDim.x + threadIdx.x;
  if (block >= n) return;
  unsigned values = 0;
  const int first = block / columns * kTileRows;
  for (int row = first; same == 0 && row < min(first + kTileRows, d_out); ++row)
    values += counts[static_cast<std::size_t>(row) * columns + block % columns];
  units[block] = same ? same : (head + 2 * values + 15) / 16;
}

// Each entry becomes the sum of those before it, the one after the last the sum of all. One block.
__global__ void scan_kernel(std::uint32_t* entries, std::size_t n) {
  __shared__ unsigned sums[kScanThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  unsigned before = 0;
  for (std::size_t first = 0; first <= n; first += kScanThreads) {
    const std::size_t i = first + threadIdx.x;
    const unsigned mine = i < n ? entries[i] : 0;
    unsigned sum = mine;
    for (int k = 1; k < 32; k *= 2) {
      const unsigned below = __shfl_up_sync(~0u, sum, k);
      if (lane >= k) sum += below;
    }
    if (lane == 31) sums[warp] = sum;
    __syncthreads();
    unsigned earlier = 0, all = 0;
    for (int w = 0; w < kScanThreads / 32; ++w) {
      earlier += w < warp ? sums[w] : 0;
      all += sums[w];
    }
    if (i <= n) entries[i] = before + earlier + sum - mine;
    before += all;
    __syncthreads();
  }
}

// One warp a block: its masks, then its values.
__global__ void pack_bitmap_kernel(BitTable table, const std::uint16_t* values, const std::uint32_t* starts,
                                   PackedBlocks out) {
  const Place origin = out.origin(blockIdx.x);
  const int lane = threadIdx.x;
  std::uint32_t* masks = out.words(blockIdx.x);
  auto* to = reinterpret_cast<std::uint16_t*>(masks + kMaskWords);
  const auto nibble = [&](int chunk) {
    unsigned bits = 0;
    for (int e = 0; e < 4; ++e) {
      const Place p = place_in_chunk(chunk, lane, e);
      bits |= table.bit(origin.row + p.row, origin.col + p.col) << e;
    }
    return bits;
  };
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    unsigned word = nibble(chunk) << (4 * (lane % 8));
    for (int i = 1; i < 8; i *= 2) word |= __shfl_xor_sync(~0u, word, i);
    if (lane % 8 == 0) masks[4 * chunk + lane / 8] = word;
  }
  walk_block(lane, nibble, [&](Place p, int index) {
    to[index] = values[table.index_of(starts, origin.row + p.row, origin.col + p.col)];
  });
}
__global__ void unpack_values_kernel(BitTable table, PackedBlocks from, const std::uint32_t* starts,
                                     std::uint16_t* values) {
  const Place origin = from.origin(blockIdx.x);
  const int lane = threadIdx.x;
  const std::uint32_t* masks = from.words(blockIdx.x);
  const auto* packed = reinterpret_cast<const std::uint16_t*>(masks + kMaskWords);
  const auto nibble = [&](int chunk) { return masks[4 * chunk + lane / 8] >> (4 * (lane % 8)) & 15; };
  walk_block(lane, nibble, [&](Place p, int index) {
    values[table.index_of(starts, origin.row + p.row, origin.col + p.col)] = packed[index];
  });
}

// A byte of the checkpoint's meta from the masks.
struct MaskByte {
  PackedBlocks from;
  int bytes;
  __device__ std::uint8_t operator()(std::size_t i) const {
    const int row = static_cast<int>(i / bytes), col = static_cast<int>(i % bytes) * 8;
    const std::uint32_t* masks = from.words(from.block_of(row, col));
    unsigned byte = 0;
    for (int b = 0; b < 8; ++b) {
      const MaskBit at = mask_bit({row % kTileRows, col % kColumnBlock + b});
      byte |= (masks[at.word] >> at.bit & 1) << b;
    }
    return static_cast<std::uint8_t>(byte);
  }
};

// A byte of the checkpoint's signs, where a set bit is +1.
struct SignByte {
  PackedBlocks from;
  int bytes, d_in;
  __device__ std::uint8_t operator()(std::size_t i) const {
    const int row = static_cast<int>(i / bytes), col = static_cast<int>(i % bytes) * 8;
    const std::uint32_t* words = from.signs(from.block_of(row, col), row);
    unsigned byte = 0;
    for (int b = 0; b < 8 && col + b < d_in; ++b) {
      const SignBit at = sign_bit({row % kTileRows, col % kColumnBlock + b});
      byte |= ((words[at.word] >> at.bit & 1) ^ 1u) << b;
    }
    return static_cast<std::uint8_t>(byte);
  }
};

// One warp for each 16 rows of a block.
__global__ void pack_signs_kernel(BitTable table, PackedBlocks out) {
  const Place origin = out.origin(blockIdx.x);
  const int row = origin.row + blockIdx.y * kTileRows;
  for (int word = 0; word < 2; ++word) {
    unsigned bits = 0;
    for (int bit = 0; bit < 32; ++bit) {
      const Place p = place_of_sign(word, threadIdx.x, bit);
      bits |= (table.bit(row + p.row, origin.col + p.col) ^ 1u) << bit;
    }
    out.signs(blockIdx.x, row)[2 * threadIdx.x + word] = bits;
  }
}

__global__ void pack_nm24_kernel(CheckpointNm24 s, PackedBlocks out) {
  for (int i = threadIdx.x; i < kBlockUnits * 4; i += blockDim.x)
    out.words(blockIdx.x)[i] = weight_word(s, static_cast<std::size_t>(blockIdx.x) * kBlockUnits * 4 + i);
}
struct BlockPair {
  PackedBlocks from;
  int groups;
  __device__ std::uint32_t operator()(std::size_t i) const {
    const int row = static_cast<int>(i / groups), group = static_cast<int>(i % groups);
    const PackedNm24 s{from.words(from.block_of(row, 4 * group)), kColumnBlock};
    return s.pair(row % kRowBlock, group % (kColumnBlock / 4));
  }
};
struct BlockMeta {
  PackedBlocks from;
  int bytes, d_in;
  __device__ std::uint8_t operator()(std::size_t i) const {
    const int row = static_cast<int>(i / bytes), byte = static_cast<int>(i % bytes);
    const int block = from.block_of(row, 8 * byte), first = from.origin(block).col;
    const PackedNm24 s{from.words(block), min(kColumnBlock, d_in - first)};
    return static_cast<std::uint8_t>(s.meta(row % kRowBlock, byte - first / 8));
  }
};

struct SignVWord {
  Dense16 v;
  __device__ std::uint32_t operator()(std::size_t i) const {
    const Place p = place_of_sign_v(i, v.rows);
    return v.pair(p.row, p.col);
  }
};
struct SignVElement {
  const std::uint32_t* words;
  int ranks, d_in;
  __device__ std::uint16_t operator()(std::size_t i) const {
    const Place p{static_cast<int>(i / d_in), static_cast<int>(i % d_in)};
    return half_of(words[index_of_sign_v(p, ranks)], p.col % 2);
  }
};

std::size_t run_count(const BitsShape& shape) {
  return static_cast<std::size_t>(shape.d_out) * blocks(shape.d_in, kColumnBlock);
}
unsigned grid_of(std::size_t n) { return static_cast<unsigned>((n + 255) / 256); }

// Where blocks begin and, in `starts`, the values of every row's blocks of columns.
void find_blocks(const BitsShape& shape, const BitTable& table, std::uint32_t* offsets, std::uint32_t* starts,
                 cudaStream_t stream) {
  const unsigned n = block_count(shape);
  const std::size_t runs = run_count(shape);
  if (shape.bitmap) count_kernel<<<grid_of(runs), 256, 0, stream>>>(table, starts, runs);
  if (offsets) {
    const int same = shape.bitmap ? 0 : kBlockUnits + sign_bytes(shape) / 16;
    size_kernel<<<grid_of(n), 256, 0, stream>>>(starts, shape.d_out, blocks(shape.d_in, kColumnBlock),
                                                sign_bytes(shape) + kMaskBytes, same, offsets, static_cast<int>(n));
    scan_kernel<<<1, kScanThreads, 0, stream>>>(offsets, n);
  }
  if (shape.bitmap) scan_kernel<<<1, kScanThreads, 0, stream>>>(starts, runs);
}

}  // namespace

BitsBytes bits_bytes(const BitsShape& shape) {
  const std::size_t n = block_count(shape);
  // Values end at a multiple of 16 bytes in every block.
  const std::size_t s = shape.bitmap ? n * (kMaskBytes + 14) + 2 * shape.stored : n * kBlockBytes;
  const std::size_t columns = blocks(shape.d_in, kColumnBlock), ranks = shape.sign_rank;
  return {4 * (n + 1),
          (s + n * sign_bytes(shape) + 15) / 16 * 16,
          4 * u_words(shape.d_out, shape.rank),
          4 * v_words(shape.rank, shape.d_in),
          16 * kSignVUnits * columns * ranks,
          2 * static_cast<std::size_t>(shape.d_out) * ranks};
}

std::size_t bits_scratch_bytes(const BitsShape& shape) { return shape.bitmap ? 4 * (run_count(shape) + 1) : 0; }

cudaError_t bits_pack(const BitsShape& shape, const BitsTensors& from, const BitsPacked& packed, void* scratch,
                      cudaStream_t stream) {
  const unsigned n = block_count(shape);
  const BitTable table{from.meta, shape.d_out, shape.d_in};
  auto* starts = static_cast<std::uint32_t*>(scratch);
  find_blocks(shape, table, packed.offsets, starts, stream);
  const PackedBlocks out = blocks_of(shape, packed);
  const auto* values = static_cast<const std::uint16_t*>(from.values);
  if (shape.bitmap) pack_bitmap_kernel<<<n, 32, 0, stream>>>(table, values, starts, out);
  else pack_nm24_kernel<<<n, 128, 0, stream>>>(CheckpointNm24{values, from.meta, shape.d_out, shape.d_in}, out);
  const Dense16 low_u{static_cast<const std::uint16_t*>(from.u), shape.d_out, shape.rank};
  const Dense16 low_v{static_cast<const std::uint16_t*>(from.v), shape.rank, shape.d_in};
  cudaError_t status = pack_factors(low_u, low_v, shape.rank, packed.u, packed.v, stream);
  if (shape.sign_rank == 0 || status != cudaSuccess) return status;
  pack_signs_kernel<<<dim3(n, rows_of_block(shape) / kTileRows), 32, 0, stream>>>(
      BitTable{from.sign_bits, shape.d_out, shape.d_in}, out);
  const Dense16 v{static_cast<const std::uint16_t*>(from.sign_v), shape.sign_rank, shape.d_in};
  const BitsBytes bytes = bits_bytes(shape);
  status = fill(static_cast<std::uint32_t*>(packed.sign_v), bytes.sign_v / 4, SignVWord{v}, stream);
  if (status != cudaSuccess) return status;
  return cudaMemcpyAsync(packed.sign_u, from.sign_u, bytes.sign_u, cudaMemcpyDeviceToDevice, stream);
}

cudaError_t bits_unpack(const BitsShape& shape, const BitsPacked& packed, const BitsTensors& to, void* scratch,
                        cudaStream_t stream) {
  const PackedBlocks from = blocks_of(shape, packed);
  const int bytes = (shape.d_in + 7) / 8, groups = shape.d_in / 4;
  const std::size_t rows = shape.d_out;
  cudaError_t status = cudaSuccess;
  if (shape.bitmap) {
    status = fill(to.meta, rows * bytes, MaskByte{from, bytes}, stream);
    const BitTable table{to.meta, shape.d_out, shape.d_in};
    auto* starts = static_cast<std::uint32_t*>(scratch);
    find_blocks(shape, table, nullptr, starts, stream);
    unpack_values_kernel<<<block_count(shape), 32, 0, stream>>>(table, from, starts,
                                                                static_cast<std::uint16_t*>(to.values));
  } else {
    status = fill(static_cast<std::uint32_t*>(to.values), rows * groups, BlockPair{from, groups}, stream);
    if (status == cudaSuccess) status = fill(to.meta, rows * bytes, BlockMeta{from, bytes, shape.d_in}, stream);
  }
  if (status == cudaSuccess) status = bits_unpack_factors(shape, packed, to.u, to.v, stream);
  if (shape.sign_rank == 0 || status != cudaSuccess) return status;
  status = fill(to.sign_bits, rows * bytes, SignByte{from, bytes, shape.d_in}, stream);
  const SignVElement v{static_cast<const std::uint32_t*>(packed.sign_v), shape.sign_rank, shape.d_in};
  if (status == cudaSuccess)
    status =
        fill(static_cast<std::uint16_t*>(to.sign_v), static_cast<std::size_t>(shape.sign_rank) * shape.d_in, v, stream);
  if (status != cudaSuccess) return status;
  return cudaMemcpyAsync(to.sign_u, packed.sign_u, bits_bytes(shape).sign_u, cudaMemcpyDeviceToDevice, stream);
}

cudaError_t bits_unpack_factors(const BitsShape& shape, const BitsPacked& packed, void* u, void* v,
                                cudaStream_t stream) {
  return unpack_factors(shape.d_out, shape.rank, shape.d_in, packed.u, packed.v, u, v, stream);
}

}  // namespace sparlow::kernels
