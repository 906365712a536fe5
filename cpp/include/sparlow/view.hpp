// Non-owning matrices. Conventions of the whole library, stated once:
//   row-major; w is d_out x d_in; y = x w^T; `n:m` keeps n of every m consecutive entries of a row;
//   ties keep the lowest index; densities are the fraction kept and carry their scope (@row, @matrix).
#pragma once

#include <cstddef>
#include <cstdint>

namespace sparlow {

using Index = std::int64_t;

enum class DType { f32, bf16, f16 };

// rows x cols elements, consecutive within a row, rows `stride` elements apart. `data` may be device memory.
template <typename T>
struct BasicView {
  T* data = nullptr;
  Index rows = 0;
  Index cols = 0;
  Index stride = 0;

  BasicView() = default;
  BasicView(T* data, Index rows, Index cols) : BasicView(data, rows, cols, cols) {}
  BasicView(T* data, Index rows, Index cols, Index stride) : data(data), rows(rows), cols(cols), stride(stride) {}
  // A mutable view converts to a read-only one.
  template <typename U>
    requires(!__is_same(U, T))
  BasicView(const BasicView<U>& other) : data(other.data), rows(other.rows), cols(other.cols), stride(other.stride) {}

  Index size() const { return rows * cols; }
  bool empty() const { return size() == 0; }
  T* row(Index i) const { return data + i * stride; }
  BasicView row_slice(Index begin, Index count) const { return {data + begin * stride, count, cols, stride}; }
  BasicView col_slice(Index begin, Index count) const { return {data + begin, rows, count, stride}; }
};

using View = BasicView<float>;
using ConstView = BasicView<const float>;
using MaskView = BasicView<std::uint8_t>;  // 1 = kept, 0 = pruned
using ConstMaskView = BasicView<const std::uint8_t>;

// Activations as the model holds them.
struct TypedView {
  const void* data = nullptr;
  Index rows = 0;
  Index cols = 0;
  Index stride = 0;
  DType dtype = DType::f32;
};

}  // namespace sparlow
