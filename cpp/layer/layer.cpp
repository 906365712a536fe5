// Checks around a layer, and the layer on a GPU.
#include "sparlow/layer.hpp"

#include <array>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "sparlow/error.hpp"
#include "sparlow/format.hpp"

namespace sparlow {
namespace {

constexpr Index kMostTokens = std::numeric_limits<std::int32_t>::max() / 256;

void check_tokens(Index tokens) { require(tokens >= 0 && tokens <= kMostTokens, "the number of tokens is ", tokens); }

LinearShape linear_shape(const LayerShape& shape) {
  if (shape.format != Format::nm24 || shape.dtype == DType::f32)
    fail(ErrorCode::unavailable, "a GPU runs packed layers of format nm24 in bfloat16 or float16, not ",
         name_of(shape.format), shape.dtype == DType::f32 ? " in float32" : "",
         "; compress to 2:4, or run this layer on device 'cpu'");
  LinearShape out;
  out.d_out = shape.d_out, out.d_in = shape.d_in, out.rank = shape.rank, out.dtype = shape.dtype;
  return out;
}

// Device memory of so many bytes is a matrix of floats: what the seam allocates.
Matrix device_bytes(Backend& backend, std::int64_t bytes) { return backend.matrix(1, (bytes + 3) / 4); }

Matrix to_device(Backend& backend, const void* data, std::int64_t bytes) {
  std::vector<float> words(static_cast<std::size_t>((bytes + 3) / 4));
  if (bytes > 0) std::memcpy(words.data(), data, static_cast<std::size_t>(bytes));
  Matrix out = device_bytes(backend, bytes);
  if (!out.empty()) backend.upload(words, out);
  return out;
}

class DeviceLayer final : public Layer {
 public:
  DeviceLayer(std::shared_ptr<Backend> backend, std::shared_ptr<LinearOps> ops, LinearOps::Stream stream,
              const LayerShape& shape, const LayerTensors& tensors)
      : Layer(shape), linear_(linear_shape(shape)), backend_(std::move(backend)), ops_(std::move(ops)) {
    require(tensors.values != nullptr && tensors.meta != nullptr, "a tensor has no memory");
    constexpr Index kSize = 2;
    Matrix values = to_device(*backend_, tensors.values, shape.stored * kSize);
    Matrix meta = to_device(*backend_, tensors.meta, shape.d_out * meta_cols(shape.d_in));
    Matrix u = to_device(*backend_, tensors.u, shape.d_out * shape.rank * kSize);
    Matrix v = to_device(*backend_, tensors.v, shape.rank * shape.d_in * kSize);
    if (tensors.bias != nullptr) bias_ = to_device(*backend_, tensors.bias, shape.d_out * kSize);
    packed_ = device_bytes(*backend_, ops_->packed_bytes(linear_));
    LinearTensors from;
    from.values = values.view().data, from.meta = reinterpret_cast<std::uint8_t*>(meta.view().data);
    from.u = u.view().data, from.v = v.view().data;
    ops_->pack(linear_, 0, linear_.rank, from, packed_.view().data, stream);
    backend_->wait();
  }

 protected:
  std::int64_t do_workspace_bytes(Index) const override { return 0; }
  void do_forward(const void* x, void* y, Index tokens, void*, LinearOps::Stream stream) const override {
    ops_->forward(linear_, LinearOps::kAllParts, packed_.view().data, bias_.view().data, x, y, tokens, stream);
  }

 private:
  LinearShape linear_;
  std::shared_ptr<Backend> backend_;
  std::shared_ptr<LinearOps> ops_;
  Matrix packed_, bias_;
};

}  // namespace

std::int64_t Layer::workspace_bytes(Index tokens) const {
  check_tokens(tokens);
  return do_workspace_bytes(tokens);
}

void Layer::forward(const void* x, void* y, Index tokens, void* workspace, std::int64_t workspace_bytes,
                    LinearOps::Stream stream) const {
  check_tokens(tokens);
  if (tokens == 0) return;
  require(x != nullptr && y != nullptr, "x or y has no memory");
  const std::int64_t needed = do_workspace_bytes(tokens);
  require(workspace_bytes >= needed, "the workspace has ", workspace_bytes, " bytes, ", tokens, " tokens need ",
          needed);
  require(needed == 0 || (workspace != nullptr && reinterpret_cast<std::uintptr_t>(workspace) % 64 == 0),
          "the workspace must start at a multiple of 64");
  do_forward(x, y, tokens, workspace, stream);
}

std::unique_ptr<Layer> make_device_layer(std::shared_ptr<Backend> backend, std::shared_ptr<LinearOps> ops,
                                         LinearOps::Stream stream, const LayerShape& shape,
                                         const LayerTensors& tensors) {
  return std::make_unique<DeviceLayer>(std::move(backend), std::move(ops), stream, shape, tensors);
}

std::string_view name_of(Format format) {
  constexpr std::array<std::string_view, 3> kNames = {"nm24", "bitmap", "dense"};
  return kNames.at(static_cast<std::size_t>(format));
}

}  // namespace sparlow
