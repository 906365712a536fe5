// Compressed layers on the CPU: they read the checkpoint's bytes where they lie.
#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "cpu/formats/convert.hpp"
#include "cpu/formats/linear_check.hpp"
#include "cpu/formats/linear_rows.hpp"
#include "cpu/multiversion.hpp"
#include "cpu/parallel.hpp"
#include "sparlow/error.hpp"

namespace sparlow {
namespace {

using cpu::RowJob;

constexpr std::int64_t kAlignment = 64;
// Below this many bytes of weights times tokens, waking another thread costs more than it saves.
constexpr Index kGrainBytes = Index{1} << 18;

Index element_size(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

SPARLOW_MULTIVERSION void widen_f16(const cpu::F16* x, Index count, float* out) {
  for (Index j = 0; j < count; ++j) out[j] = cpu::to_float(x[j]);
}

SPARLOW_MULTIVERSION void widen_bf16(const cpu::Bf16* x, Index count, float* out) {
  for (Index j = 0; j < count; ++j) out[j] = cpu::to_float(x[j]);
}

// Where the parts of the workspace for one tile of tokens begin.
struct Plan {
  Index x_stride, inner_stride, input_size, inner_part;
  std::int64_t inner_begin, bytes;

  Plan(const LayerShape& shape, const cpu::RowKernels& kernels, Index tokens)
      : x_stride(cpu::padded(shape.d_in)), inner_stride(shape.rank == 0 ? 0 : cpu::padded(shape.rank)) {
    input_size = shape.dtype == DType::bf16 && kernels.bf16_inputs ? 2 : 4;
    const Index tile = std::min(tokens, cpu::kTokenTile);
    inner_begin = (tile * x_stride * input_size + kAlignment - 1) / kAlignment * kAlignment;
    inner_part = input_size == 2 ? tile * inner_stride : 0;
    bytes = inner_begin + (input_size == 2 ? 2 : 1) * tile * inner_stride * input_size;
  }
};

class CpuLayer final : public Layer {
 public:
  CpuLayer(const cpu::RowKernels& kernels, const LayerShape& shape, const LayerTensors& tensors, bool check)
      : Layer(shape), tensors_(tensors), kernels_(kernels), starts_(cpu::check_layer(shape, tensors, check)) {
    num_threads();  // starts the pool: `forward` allocates nothing
  }

 protected:
  std::int64_t do_workspace_bytes(Index tokens) const override { return Plan(shape(), kernels_, tokens).bytes; }

  void do_forward(const void* x, void* y, Index tokens, void* workspace, LinearOps::Stream) const override {
    const Index size = element_size(shape().dtype);
    for (Index t = 0; t < tokens; t += cpu::kTokenTile)
      forward_tile(static_cast<const char*>(x) + t * shape().d_in * size,
                   static_cast<char*>(y) + t * shape().d_out * size, std::min(cpu::kTokenTile, tokens - t),
                   static_cast<char*>(workspace));
  }

 private:
  cpu::Rows* rows(Format format) const {
    return kernels_.rows[static_cast<int>(shape().dtype)][static_cast<int>(format)];
  }

  void copy_inputs(const char* x, Index tokens, const Plan& plan, char* to) const {
    const Index cols = shape().d_in, size = element_size(shape().dtype);
    for (Index t = 0; t < tokens; ++t) {
      const char* from = x + t * cols * size;
      char* out = to + t * plan.x_stride * plan.input_size;
      if (size == plan.input_size) std::memcpy(out, from, static_cast<std::size_t>(cols * size));
      else if (shape().dtype == DType::f16)
        widen_f16(reinterpret_cast<const cpu::F16*>(from), cols, reinterpret_cast<float*>(out));
      else widen_bf16(reinterpret_cast<const cpu::Bf16*>(from), cols, reinterpret_cast<float*>(out));
      std::memset(out + cols * plan.input_size, 0, static_cast<std::size_t>((plan.x_stride - cols) * plan.input_size));
    }
  }

  // inner = x vᵀ, padded with zeros.
  void low_rank_inputs(const RowJob& outer, char* inner, Index tokens, const Plan& plan) const {
    std::memset(inner, 0, static_cast<std::size_t>(plan.bytes - plan.inner_begin));
    RowJob job;
    job.values = tensors_.v;
    job.d_in = shape().d_in;
    job.x = outer.x;
    job.x_stride = plan.x_stride;
    job.y = inner;
    job.y_stride = plan.inner_stride;
    job.inner_part = plan.inner_part;
    job.like_x = true;
    job.tokens = tokens;
    run(rows(Format::dense), job, shape().rank, shape().d_in * element_size(shape().dtype));
  }

  void forward_tile(const char* x, char* y, Index tokens, char* workspace) const {
    const Plan plan(shape(), kernels_, tokens);
    copy_inputs(x, tokens, plan, workspace);
    RowJob job;
    job.values = tensors_.values;
    job.meta = tensors_.meta;
    job.starts = starts_.data();
    job.d_in = shape().d_in;
    job.x = workspace;
    job.x_stride = plan.x_stride;
    job.u = tensors_.u;
    job.inner = workspace + plan.inner_begin;
    job.rank = shape().rank;
    job.inner_stride = plan.inner_stride;
    job.inner_part = plan.inner_part;
    job.bias = tensors_.bias;
    job.y = y;
    job.y_stride = shape().d_out;
    job.tokens = tokens;
    if (shape().rank > 0) low_rank_inputs(job, workspace + plan.inner_begin, tokens, plan);
    const Index stored = (shape().stored / shape().d_out + shape().rank) * element_size(shape().dtype);
    run(rows(shape().format), job, shape().d_out, stored + shape().d_in / 8);
  }

  // Rows in shares of whole cache lines of y, which threads would fight for, and multiples of four, which is what the
  // kernels take at a time.
  static void run(cpu::Rows* rows, const RowJob& job, Index count, Index row_bytes) {
    const Index work = std::max<Index>(1, row_bytes * ((job.tokens + 3) / 4));
    const Index grain = (std::max<Index>(1, kGrainBytes / work) + 31) / 32 * 32;
    const auto body = [&](Index begin, Index end) { rows(job, begin, end); };
    cpu::parallel_for(count, grain, std::ref(body));
  }

  LayerTensors tensors_;
  const cpu::RowKernels& kernels_;
  std::vector<Index> starts_;
};

}  // namespace

std::unique_ptr<Layer> cpu::make_layer_with(const RowKernels& kernels, const LayerShape& shape,
                                            const LayerTensors& tensors, bool check) {
  return std::make_unique<CpuLayer>(kernels, shape, tensors, check);
}

std::unique_ptr<Layer> make_cpu_layer(const LayerShape& shape, const LayerTensors& tensors, bool check) {
  return cpu::make_layer_with(cpu::row_kernels(), shape, tensors, check);
}

}  // namespace sparlow
