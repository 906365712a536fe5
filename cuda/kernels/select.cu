// Top-k by radix select on the bit patterns of |x|, which order like the values. Eight bits a pass narrow the k-th
// largest pattern down; of the entries equal to it the lowest indices stay.
#include "launch.cuh"
#include "rank.cuh"

namespace sparlow::cuda::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kBins = 256;

// Pattern bits above `shift` found so far, and how many entries at or below them are still to be kept.
struct Choice {
  unsigned prefix;
  unsigned long long wanted;
};

__device__ bool matches(unsigned bits, unsigned prefix, int shift) {
  return shift == 24 || (bits >> (shift + 8)) == (prefix >> (shift + 8));
}

// The bin in which the wanted-th largest entry falls; the count of entries above it is no longer wanted.
template <typename Count>
__device__ Choice descend(Choice choice, const Count* histogram, int shift) {
  for (int bin = kBins - 1; bin > 0; --bin) {
    if (choice.wanted <= histogram[bin]) return {choice.prefix | (unsigned(bin) << shift), choice.wanted};
    choice.wanted -= histogram[bin];
  }
  return choice;
}

__device__ void count_row(const float* row, Size cols, unsigned prefix, int shift, unsigned* histogram) {
  for (Size j = threadIdx.x; j < cols; j += kThreads) {
    const unsigned bits = rank_value(row[j]);
    if (matches(bits, prefix, shift)) atomicAdd(&histogram[(bits >> shift) & 255], 1u);
  }
}

// Entries of the row equal to the threshold; the same number for every thread.
__device__ unsigned ties_of_row(const float* row, Size cols, unsigned threshold, unsigned* shared) {
  unsigned ties = 0;
  for (Size j = threadIdx.x; j < cols; j += kThreads) ties += rank_value(row[j]) == threshold;
  return block_sum(ties, shared);
}

// Keeps entries above the threshold, and those equal to it while fewer than `wanted` came before; `before` of them
// stand in earlier rows.
__device__ void mark_row(const float* row, Size cols, unsigned threshold, unsigned long long before,
                         unsigned long long wanted, std::uint8_t* mask, unsigned* shared) {
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (Size start = 0; start < cols; start += kThreads) {
    const Size j = start + threadIdx.x;
    const unsigned bits = j < cols ? rank_value(row[j]) : 0;
    const bool tie = j < cols && bits == threshold;
    const unsigned votes = __ballot_sync(0xffffffffu, tie);
    __syncthreads();  // the previous chunk's counts have been read
    if (lane == 0) shared[warp] = __popc(votes);
    __syncthreads();
    unsigned earlier = __popc(votes & ((1u << lane) - 1)), all = 0;
    for (unsigned other = 0; other < kThreads / 32; ++other) {
      if (other < warp) earlier += shared[other];
      all += shared[other];
    }
    if (j < cols) mask[j] = bits > threshold || (tie && before + earlier < wanted);
    before += all;
  }
}

__global__ void __launch_bounds__(kThreads) select_row(Size cols, Size kept, ConstFloats score, Bytes mask) {
  __shared__ unsigned histogram[kBins], shared[kThreads / 32];
  __shared__ Choice choice;
  const float* row = score.row(blockIdx.x);
  if (threadIdx.x == 0) choice = {0, static_cast<unsigned long long>(kept)};
  for (int shift = 24; shift >= 0; shift -= 8) {
    histogram[threadIdx.x] = 0;
    __syncthreads();
    count_row(row, cols, choice.prefix, shift, histogram);
    __syncthreads();
    if (threadIdx.x == 0) choice = descend(choice, histogram, shift);
    __syncthreads();
  }
  mark_row(row, cols, choice.prefix, 0, choice.wanted, mask.row(blockIdx.x), shared);
}

__global__ void start_choice(Size kept, Choice* choice, unsigned long long* histogram) {
  histogram[threadIdx.x] = 0;
  if (threadIdx.x == 0) *choice = {0, static_cast<unsigned long long>(kept)};
}

__global__ void __launch_bounds__(kThreads)
    count_matrix(Size rows, Size cols, ConstFloats score, const Choice* choice, int shift, unsigned long long* total) {
  __shared__ unsigned histogram[kBins];
  histogram[threadIdx.x] = 0;
  __syncthreads();
  for (Size i = blockIdx.x; i < rows; i += gridDim.x) count_row(score.row(i), cols, choice->prefix, shift, histogram);
  __syncthreads();
  if (histogram[threadIdx.x] > 0)
    atomicAdd(&total[threadIdx.x], static_cast<unsigned long long>(histogram[threadIdx.x]));
}

__global__ void __launch_bounds__(kThreads) narrow_choice(Choice* choice, int shift, unsigned long long* histogram) {
  if (threadIdx.x == 0) *choice = descend(*choice, histogram, shift);
  __syncthreads();
  histogram[threadIdx.x] = 0;
}

__global__ void __launch_bounds__(kThreads)
    count_ties(Size cols, ConstFloats score, const Choice* choice, unsigned long long* ties) {
  __shared__ unsigned shared[kThreads / 32];
  const unsigned count = ties_of_row(score.row(blockIdx.x), cols, choice->prefix, shared);
  if (threadIdx.x == 0) ties[blockIdx.x] = count;
}

// ties_i becomes the ties of all earlier rows.
__global__ void __launch_bounds__(kThreads) scan_ties(Size rows, unsigned long long* ties) {
  __shared__ unsigned long long sums[kThreads];
  const Size share = (rows + kThreads - 1) / kThreads, first = threadIdx.x * share, last = min(rows, first + share);
  unsigned long long sum = 0;
  for (Size i = first; i < last; ++i) sum += ties[i];
  sums[threadIdx.x] = sum;
  __syncthreads();
  unsigned long long before = 0;
  for (unsigned other = 0; other < threadIdx.x; ++other) before += sums[other];
  for (Size i = first; i < last; ++i) {
    const unsigned long long own = ties[i];
    ties[i] = before;
    before += own;
  }
}

__global__ void __launch_bounds__(kThreads)
    mark_matrix(Size cols, ConstFloats score, const Choice* choice, const unsigned long long* ties, Bytes mask) {
  __shared__ unsigned shared[kThreads / 32];
  mark_row(score.row(blockIdx.x), cols, choice->prefix, ties[blockIdx.x], choice->wanted, mask.row(blockIdx.x), shared);
}

}  // namespace

cudaError_t select_in_rows(Size rows, Size cols, Size kept, ConstFloats score, Bytes mask, cudaStream_t stream) {
  select_row<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(cols, kept, score, mask);
  return cudaGetLastError();
}

Size select_workspace(Size rows) { return (2 + kBins + rows) * 8; }

cudaError_t select_in_matrix(Size rows, Size cols, Size kept, ConstFloats score, Bytes mask, void* workspace,
                             cudaStream_t stream) {
  auto* choice = static_cast<Choice*>(workspace);
  auto* histogram = static_cast<unsigned long long*>(workspace) + 2;
  auto* ties = histogram + kBins;
  const unsigned all = static_cast<unsigned>(rows), some = static_cast<unsigned>(std::min<Size>(rows, 1056));
  start_choice<<<1, kBins, 0, stream>>>(kept, choice, histogram);
  for (int shift = 24; shift >= 0; shift -= 8) {
    count_matrix<<<some, kThreads, 0, stream>>>(rows, cols, score, choice, shift, histogram);
    narrow_choice<<<1, kBins, 0, stream>>>(choice, shift, histogram);
  }
  count_ties<<<all, kThreads, 0, stream>>>(cols, score, choice, ties);
  scan_ties<<<1, kThreads, 0, stream>>>(rows, ties);
  mark_matrix<<<all, kThreads, 0, stream>>>(cols, score, choice, ties, mask);
  return cudaGetLastError();
}

}  // namespace sparlow::cuda::kernels
