// What the tests share: the backends under test, f64 reference matrices, transfers, error inspection.
// Tests reach numbers through a backend's upload and fetch_values only, so that they run on any device.
#pragma once

#include <doctest/doctest.h>

#include <optional>
#include <string>
#include <vector>

#include "sparlow/backend.hpp"

namespace sparlow::test {

// One row per backend: `tolerance` bounds the error of one f32 operation relative to the largest reference entry.
struct BackendRow {
  std::string device;
  double tolerance;
};

// The rows whose device answers on this machine; "cpu" always does.
const std::vector<BackendRow>& backends();

template <typename Test>
void on_every_backend(Test&& test) {
  for (const BackendRow& row : backends()) {
    CAPTURE(row.device);
    const std::unique_ptr<Backend> backend = make_backend(row.device);
    test(*backend, row.tolerance);
  }
}

// A reference matrix: f64, row-major, on the host.
struct Dense {
  Index rows = 0, cols = 0;
  std::vector<double> values;

  Dense(Index rows, Index cols, double value = 0)
      : rows(rows), cols(cols), values(static_cast<std::size_t>(rows * cols), value) {}
  double& operator()(Index i, Index j) { return values[static_cast<std::size_t>(i * cols + j)]; }
  double operator()(Index i, Index j) const { return values[static_cast<std::size_t>(i * cols + j)]; }
};

Dense from(Index rows, Index cols, const std::vector<double>& values);
// Standard normal entries, representable in f32.
Dense normal(Index rows, Index cols, unsigned seed);
// x^T x of `tokens` correlated rows; positive definite when tokens >= size.
Dense gram_of(Index size, Index tokens, unsigned seed);
Dense identity(Index size);
Dense transposed(const Dense& x);
Dense product(const Dense& a, const Dense& b);
Dense added(double alpha, const Dense& a, double beta, const Dense& b);
Dense rows_of(const Dense& x, Index begin, Index count);
double quadratic(const Dense& e, const Dense& gram);  // tr(e gram e^T)
double largest(const Dense& x);                       // largest absolute entry
double difference(const Dense& a, const Dense& b);    // largest absolute difference; infinite for different shapes
bool same_bits(const Dense& a, const Dense& b);       // equal entry by entry, NaN equal to NaN, -0 unlike 0

// A matrix inside a wider parent filled with a guard value: rows are strided and writes outside are seen.
struct Placed {
  Matrix parent;
  View view;
  Index pad = 0;
  operator View() const { return view; }
  operator ConstView() const { return view; }
};

Placed place(Backend& backend, const Dense& values, Index pad = 0);
bool guards_intact(Backend& backend, const Placed& placed);
Dense fetch(Backend& backend, ConstView x);

Mask mask_of(Backend& backend, const Dense& zero_or_one);
Dense fetch_mask(Backend& backend, ConstMaskView mask);

// 16-bit activations in backend memory.
struct Half {
  Matrix storage;
  TypedView view;
};
Half place_half(Backend& backend, const Dense& values, DType dtype);
// The value as the 16-bit type holds it.
double rounded(double value, DType dtype);

// The Error that `call` throws, or nothing.
template <typename Call>
std::optional<Error> error_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

template <typename Call>
bool fails_with(ErrorCode code, const std::string& part, Call&& call) {
  const std::optional<Error> error = error_of(call);
  const std::string message = error ? error->what() : "no error was thrown";
  INFO("message: ", message);
  const bool matches = error && error->code() == code && message.find(part) != std::string::npos;
  CHECK(matches);
  return matches;
}

template <typename Call>
bool refuses(const std::string& part, Call&& call) {
  return fails_with(ErrorCode::invalid_argument, part, std::forward<Call>(call));
}

}  // namespace sparlow::test
