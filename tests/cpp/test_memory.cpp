#include <cmath>

#include "support.hpp"

namespace sparlow::test {
TEST_SUITE_BEGIN("memory");

TEST_CASE("a new matrix is zero and a new mask keeps nothing") {
  on_every_backend([](Backend& backend, double) {
    for (const auto& [rows, cols] : {std::pair<Index, Index>{1, 1}, {3, 17}, {129, 5}}) {
      Matrix x = backend.matrix(rows, cols);
      CHECK(same_bits(fetch(backend, x), Dense(rows, cols)));
      Mask mask = backend.mask(rows, cols);
      CHECK(same_bits(fetch_mask(backend, mask), Dense(rows, cols)));
    }
  });
}

TEST_CASE("upload and fetch return the same bits, through strided views too") {
  on_every_backend([](Backend& backend, double) {
    for (const auto& [rows, cols] : {std::pair<Index, Index>{1, 1}, {3, 1}, {1, 17}, {17, 3}, {129, 130}})
      for (Index pad : {0, 3}) {
        Dense values = normal(rows, cols, 1);
        values(0, 0) = -0.0;
        values(rows - 1, cols - 1) = rows * cols > 1 ? std::nan("") : -0.0;
        const Placed placed = place(backend, values, pad);
        CHECK(same_bits(fetch(backend, placed), values));
        CHECK(guards_intact(backend, placed));
      }
  });
}

TEST_CASE("fetch_values reads a diagonal as a column with stride cols + 1") {
  on_every_backend([](Backend& backend, double) {
    const Dense values = normal(17, 17, 2);
    const Placed placed = place(backend, values);
    const Dense diagonal = fetch(backend, ConstView(placed.view.data, 17, 1, 18));
    for (Index i = 0; i < 17; ++i) CHECK(diagonal(i, 0) == values(i, i));
  });
}

TEST_CASE("copy moves values between strides and accepts a matrix onto itself") {
  on_every_backend([](Backend& backend, double) {
    const Dense values = normal(17, 129, 3);
    const Placed source = place(backend, values, 5);
    const Placed target = place(backend, Dense(17, 129), 2);
    backend.copy(source, target);
    CHECK(same_bits(fetch(backend, target), values));
    CHECK(guards_intact(backend, target));
    backend.copy(target, target);
    CHECK(same_bits(fetch(backend, target), values));
  });
}

TEST_CASE("copy_mask copies a mask") {
  on_every_backend([](Backend& backend, double) {
    Dense values(3, 17);
    for (Index j = 0; j < 17; j += 3) values(j % 3, j) = 1;
    const Mask source = mask_of(backend, values);
    Mask target = backend.mask(3, 17);
    backend.copy_mask(source, target);
    CHECK(same_bits(fetch_mask(backend, target), values));
  });
}

TEST_CASE("row and column slices are views of the parent") {
  on_every_backend([](Backend& backend, double) {
    const Dense values = normal(7, 9, 4);
    Matrix parent = backend.matrix(7, 9);
    backend.copy(place(backend, values), parent);
    const Dense part = fetch(backend, parent.view().row_slice(2, 3).col_slice(4, 5));
    for (Index i = 0; i < 3; ++i)
      for (Index j = 0; j < 5; ++j) CHECK(part(i, j) == values(i + 2, j + 4));
  });
}

TEST_CASE("empty matrices pass through every transfer") {
  on_every_backend([](Backend& backend, double) {
    for (const auto& [rows, cols] : {std::pair<Index, Index>{0, 0}, {0, 5}, {5, 0}}) {
      Matrix a = backend.matrix(rows, cols), b = backend.matrix(rows, cols);
      CHECK(a.empty());
      backend.upload({}, a);
      backend.copy(a, b);
      CHECK(backend.fetch_values(b).empty());
      Mask m = backend.mask(rows, cols), k = backend.mask(rows, cols);
      backend.copy_mask(m, k);
      CHECK(backend.fetch_changed(m, k) == 0);
    }
  });
}

TEST_CASE("matrices are move-only owners") {
  on_every_backend([](Backend& backend, double) {
    Matrix a = backend.matrix(2, 3);
    backend.upload({1, 2, 3, 4, 5, 6}, a);
    Matrix b = std::move(a);
    CHECK(b.rows() == 2);
    CHECK(backend.fetch_values(b) == std::vector<float>{1, 2, 3, 4, 5, 6});
  });
}

TEST_CASE("sizes and shapes that do not fit are refused with their numbers") {
  on_every_backend([](Backend& backend, double) {
    Matrix a = backend.matrix(2, 3), b = backend.matrix(3, 2);
    Mask m = backend.mask(2, 3), k = backend.mask(3, 2);
    refuses("negative size -1 x 2", [&] { backend.matrix(-1, 2); });
    refuses("negative size 2 x -1", [&] { backend.mask(2, -1); });
    refuses("5 values for a 2 x 3", [&] { backend.upload(std::vector<float>(5), a); });
    refuses("copy: shapes 2 x 3 and 3 x 2 differ", [&] { backend.copy(a, b); });
    refuses("copy_mask: shapes 2 x 3 and 3 x 2 differ", [&] { backend.copy_mask(m, k); });
  });
}

TEST_CASE("a matrix beyond all memory is refused, also when its byte count overflows") {
  on_every_backend([](Backend& backend, double) {
    const Index huge = Index{1} << 31;
    fails_with(ErrorCode::out_of_memory, "", [&] { backend.matrix(huge, huge); });
    fails_with(ErrorCode::out_of_memory, "", [&] { backend.mask(huge * 4, huge * 4); });
    fails_with(ErrorCode::out_of_memory, "", [&] { backend.matrix(Index{1} << 24, Index{1} << 24); });
  });
}

TEST_CASE("devices that are not there are named") {
  refuses("unknown device 'tpu'", [] { make_backend("tpu"); });
  refuses("accepted: 'cpu', 'cuda', 'cuda:N'", [] { make_backend(""); });
  refuses("no valid index", [] { make_backend("cuda:"); });
  refuses("no valid index", [] { make_backend("cuda:x"); });
  refuses("no valid index", [] { make_backend("cuda:12345"); });
  for (const char* device : {"cuda", "cuda:0", "cuda:999"}) {
    const auto error = error_of([&] { make_backend(device); });
    if (error) CHECK(error->code() == ErrorCode::unavailable);
  }
}

TEST_SUITE_END();
}  // namespace sparlow::test
