// Owning matrices: move-only, zero-initialised, allocated by a Backend in its own memory.
#pragma once

#include <memory>
#include <utility>

#include "sparlow/view.hpp"

namespace sparlow {

template <typename T>
class BasicMatrix {
 public:
  BasicMatrix() = default;
  BasicMatrix(std::shared_ptr<void> storage, Index rows, Index cols)
      : storage_(std::move(storage)), rows_(rows), cols_(cols) {}
  BasicMatrix(BasicMatrix&&) noexcept = default;
  BasicMatrix& operator=(BasicMatrix&&) noexcept = default;
  BasicMatrix(const BasicMatrix&) = delete;
  BasicMatrix& operator=(const BasicMatrix&) = delete;

  Index rows() const { return rows_; }
  Index cols() const { return cols_; }
  bool empty() const { return rows_ * cols_ == 0; }

  BasicView<T> view() { return {static_cast<T*>(storage_.get()), rows_, cols_}; }
  BasicView<const T> view() const { return {static_cast<const T*>(storage_.get()), rows_, cols_}; }
  operator BasicView<T>() { return view(); }
  operator BasicView<const T>() const { return view(); }

 private:
  std::shared_ptr<void> storage_;
  Index rows_ = 0;
  Index cols_ = 0;
};

using Matrix = BasicMatrix<float>;
using Mask = BasicMatrix<std::uint8_t>;

}  // namespace sparlow
