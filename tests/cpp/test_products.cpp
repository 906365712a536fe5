#include <cmath>

#include "support.hpp"

namespace sparlow::test {
TEST_SUITE_BEGIN("products");

namespace {

struct Sizes {
  Index rows, inner, cols;
};

constexpr Sizes kSizes[] = {
    {1, 1, 1},    {3, 17, 5},      {17, 129, 1},    {1, 3, 129},    {130, 64, 33},
    {129, 1, 17}, {257, 301, 131}, {131, 130, 400}, {2001, 1030, 1}};  // large enough for several threads

void check_gemm(Backend& backend, double tolerance, Sizes size, Op op_a, Op op_b, Index pad) {
  CAPTURE(size.rows);
  CAPTURE(size.inner);
  CAPTURE(size.cols);
  const Dense a = normal(size.rows, size.inner, 1), b = normal(size.inner, size.cols, 2),
              c = normal(size.rows, size.cols, 3);
  const Placed device_a = place(backend, op_a == Op::none ? a : transposed(a), pad);
  const Placed device_b = place(backend, op_b == Op::none ? b : transposed(b), pad);
  for (const auto& [alpha, beta] : {std::pair{1.0, 0.0}, {-0.5, 2.0}, {0.0, 1.0}}) {
    const Placed device_c = place(backend, c, pad);
    backend.gemm(alpha, device_a, op_a, device_b, op_b, beta, device_c);
    const Dense expected = added(alpha, product(a, b), beta, c);
    CHECK(difference(fetch(backend, device_c), expected) <= tolerance * (1 + largest(expected)));
    CHECK(guards_intact(backend, device_c));
  }
}

}  // namespace

TEST_CASE("gemm matches f64 for every orientation, odd shapes and strides") {
  on_every_backend([](Backend& backend, double tolerance) {
    for (const Sizes& size : kSizes)
      for (Op op_a : {Op::none, Op::transpose})
        for (Op op_b : {Op::none, Op::transpose})
          for (Index pad : {0, 3}) check_gemm(backend, tolerance, size, op_a, op_b, pad);
  });
}

TEST_CASE("gemm with beta 0 overwrites NaN, and an empty inner dimension leaves beta c") {
  on_every_backend([](Backend& backend, double) {
    const Placed c = place(backend, Dense(3, 4, std::nan("")));
    backend.gemm(1, place(backend, Dense(3, 2, 1)), Op::none, place(backend, Dense(2, 4, 1)), Op::none, 0, c);
    CHECK(same_bits(fetch(backend, c), Dense(3, 4, 2)));
    Matrix thin = backend.matrix(3, 0), flat = backend.matrix(0, 4);
    backend.gemm(1, thin, Op::none, flat, Op::none, 3, c);
    CHECK(same_bits(fetch(backend, c), Dense(3, 4, 6)));
    backend.gemm(1, thin, Op::none, flat, Op::none, 0, c);
    CHECK(same_bits(fetch(backend, c), Dense(3, 4)));
    Matrix none = backend.matrix(0, 4);
    backend.gemm(1, thin.view().row_slice(0, 0), Op::none, flat, Op::none, 0, none);
  });
}

TEST_CASE("gemm refuses shapes that do not multiply and outputs that overlap an input") {
  on_every_backend([](Backend& backend, double) {
    Matrix a = backend.matrix(4, 4), b = backend.matrix(4, 4), c = backend.matrix(3, 4);
    refuses("(4 x 4) (4 x 4) does not give 3 x 4", [&] { backend.gemm(1, a, Op::none, b, Op::none, 0, c); });
    refuses("(4 x 3)", [&] { backend.gemm(1, c, Op::transpose, b, Op::none, 0, a); });
    refuses("overlaps", [&] { backend.gemm(1, a, Op::none, b, Op::none, 0, a); });
    refuses("overlaps", [&] { backend.gemm(1, a, Op::none, b, Op::none, 0, b); });
    const View rows = a.view().row_slice(1, 3);
    refuses("overlaps", [&] { backend.gemm(1, c, Op::none, a, Op::none, 0, rows); });
    backend.gemm(1, a.view().row_slice(0, 2), Op::none, b, Op::none, 0, a.view().row_slice(2, 2));  // disjoint rows
  });
}

TEST_CASE("gram_update adds the upper triangle of x^T x in f32, bf16 and f16") {
  on_every_backend([](Backend& backend, double tolerance) {
    for (DType dtype : {DType::f32, DType::bf16, DType::f16})
      for (const auto& [tokens, size] : {std::pair<Index, Index>{1, 1}, {3, 17}, {129, 3}, {2051, 33}}) {
        CAPTURE(tokens);
        Dense x = normal(tokens, size, 5);
        const Half half = place_half(backend, x, dtype == DType::f32 ? DType::bf16 : dtype);
        const Placed full = place(backend, x, 3);
        if (dtype != DType::f32)
          for (double& value : x.values) value = rounded(value, dtype);
        const TypedView wide{full.view.data, tokens, size, full.view.stride, DType::f32};
        const Placed gram = place(backend, Dense(size, size), 2);
        for (int repeat = 0; repeat < 2; ++repeat) backend.gram_update(dtype == DType::f32 ? wide : half.view, gram);
        backend.symmetrise(gram);
        const Dense expected = added(2, product(transposed(x), x), 0, Dense(size, size));
        CHECK(difference(fetch(backend, gram), expected) <= tolerance * (1 + largest(expected)));
        CHECK(guards_intact(backend, gram));
      }
  });
}

TEST_CASE("gram_update with no tokens changes nothing; shapes are checked") {
  on_every_backend([](Backend& backend, double) {
    const Dense start = normal(3, 3, 6);
    const Placed gram = place(backend, start);
    const Placed x = place(backend, Dense(2, 3, 1));
    backend.gram_update({x.view.data, 0, 3, 3, DType::f32}, gram);
    CHECK(same_bits(fetch(backend, gram), start));
    refuses("x has 2 columns, the Gram matrix 3", [&] { backend.gram_update({x.view.data, 2, 2, 3}, gram); });
    refuses("not square", [&] { backend.gram_update({x.view.data, 2, 3, 3}, x); });
    refuses("not square", [&] { backend.symmetrise(x); });
    refuses("overlaps", [&] { backend.gram_update({gram.view.data, 3, 3, 3}, gram); });
  });
}

TEST_CASE("symmetrise mirrors the upper triangle exactly") {
  on_every_backend([](Backend& backend, double) {
    for (Index size : {1, 3, 17, 129}) {
      Dense values = normal(size, size, 7);
      const Placed gram = place(backend, values, 1);
      backend.symmetrise(gram);
      for (Index i = 0; i < size; ++i)
        for (Index j = 0; j < i; ++j) values(i, j) = values(j, i);
      CHECK(same_bits(fetch(backend, gram), values));
    }
    Matrix empty = backend.matrix(0, 0);
    backend.symmetrise(empty);
  });
}

TEST_CASE("normalise_gram scales both sides and writes the given diagonal exactly") {
  on_every_backend([](Backend& backend, double tolerance) {
    for (Index size : {1, 3, 17, 129}) {
      const Dense gram = gram_of(size, size + 5, 8);
      Dense scale(1, size), expected(size, size);
      Dense diagonal(1, size);
      for (Index j = 0; j < size; ++j) scale(0, j) = j % 5 == 4 ? 0 : static_cast<float>(1 / std::sqrt(gram(j, j)));
      for (Index j = 0; j < size; ++j) diagonal(0, j) = 1 + 0.5 * static_cast<double>(j % 4);
      for (Index i = 0; i < size; ++i)
        for (Index j = 0; j < size; ++j)
          expected(i, j) = i == j ? diagonal(0, i) : gram(i, j) * scale(0, i) * scale(0, j);
      const Placed out = place(backend, Dense(size, size), 3);
      backend.normalise_gram(place(backend, gram, 2), place(backend, scale), place(backend, diagonal), out);
      const Dense actual = fetch(backend, out);
      CHECK(difference(actual, expected) <= tolerance);
      for (Index i = 0; i < size; ++i) CHECK(actual(i, i) == diagonal(0, i));
    }
    Matrix gram = backend.matrix(3, 3), out = backend.matrix(3, 3), scale = backend.matrix(1, 2);
    refuses("is not 1 x 3", [&] { backend.normalise_gram(gram, scale, scale, out); });
  });
}

TEST_CASE("fetch_dot and fetch_quadratic accumulate in f64") {
  on_every_backend([](Backend& backend, double) {
    for (const auto& [rows, cols] : {std::pair<Index, Index>{1, 1}, {3, 17}, {300, 129}, {2, 700}}) {
      const Dense x = normal(rows, cols, 9), y = normal(rows, cols, 10), gram = gram_of(cols, cols + 3, 11);
      const Placed device_x = place(backend, x, 3), device_y = place(backend, y, 1);
      double dot = 0, scale = 0;
      for (std::size_t i = 0; i < x.values.size(); ++i) {
        dot += x.values[i] * y.values[i];
        scale += std::fabs(x.values[i] * y.values[i]);
      }
      CHECK(std::fabs(backend.fetch_dot(device_x, device_y) - dot) <= 1e-12 * scale);
      const double loss = quadratic(x, gram);
      CHECK(std::fabs(backend.fetch_quadratic(device_x, place(backend, gram, 2)) - loss) <= 1e-10 * loss);
    }
    Matrix flat = backend.matrix(0, 3), gram = backend.matrix(3, 3), wide = backend.matrix(2, 4);
    CHECK(backend.fetch_dot(flat, flat) == 0);
    CHECK(backend.fetch_quadratic(flat, gram) == 0);
    refuses("e has 4 columns, the Gram matrix 3", [&] { backend.fetch_quadratic(wide, gram); });
    refuses("fetch_dot: shapes", [&] { backend.fetch_dot(wide, gram); });
  });
}

TEST_CASE("sums do not depend on the number of threads") {
  const std::unique_ptr<Backend> backend = make_cpu_backend();
  const int before = num_threads();
  const Placed x = place(*backend, normal(700, 500, 12));
  set_num_threads(1);
  const double alone = backend->fetch_dot(x, x);
  set_num_threads(5);
  CHECK(backend->fetch_dot(x, x) == alone);
  set_num_threads(before);
}

TEST_SUITE_END();
}  // namespace sparlow::test
