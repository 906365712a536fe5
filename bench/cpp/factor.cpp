// The pieces a solver spends its time in: Gram matrices, their factorisation, orthonormal bases, truncated SVDs;
// against what LAPACK or cuSOLVER and plain products of the same size take in the same run.
#include <algorithm>
#include <cmath>

#include "matrices.hpp"
#include "session.hpp"
#include "sparlow/error.hpp"
#include "sparlow/solvers.hpp"
#include "tensors.hpp"

namespace sparlow::bench {
namespace {

constexpr double kShift = 1.0;          // of the factorised Gram matrix, relative to its mean diagonal
constexpr DType kReduced = DType::f16;  // what products of reduced accuracy take on a GPU, and so the plain product
                                        // that bounds them all; a CPU has f32 only

double cubed(Index n) { return std::pow(static_cast<double>(n), 3); }

class Pieces {
 public:
  Pieces(Session& session, Backend& backend, const LayerSize& size)
      : session_(session), backend_(backend), device_(session.device()), size_(size) {
    const Index n = size.d_in;
    gram_ = synthetic_gram(backend, n, 2 * n, 1);
    std::vector<float> values = backend.fetch_values(gram_);
    const auto diagonal = [&](Index i) -> float& { return values[static_cast<std::size_t>(i * (n + 1))]; };
    for (Index i = 0; i < n; ++i) mean_ += diagonal(i) / static_cast<double>(n);
    require(mean_ > 0, "the synthetic Gram matrix has a mean diagonal of ", mean_);
    // Shifted, so that what LAPACK factorises is as well conditioned as what the library does.
    for (Index i = 0; i < n; ++i) diagonal(i) += static_cast<float>(kShift * mean_);
    shifted_ = backend.matrix(n, n);
    backend.upload(values, shifted_);
  }

  void gram() {
    const Index n = size_.d_in, tokens = session_.smoke() ? 32 : 2048;
    const Matrix x = normal(backend_, tokens, n, 3);
    Matrix sum = backend_.matrix(n, n), product = backend_.matrix(n, n);
    const Way update{[&](int) { backend_.gram_update({x.view().data, tokens, n, n, DType::f32}, sum); }};
    const Way whole{[&](int) { backend_.gemm(1, x, Op::transpose, x, Op::none, 0, product); }};
    const double flops = static_cast<double>(tokens) * static_cast<double>(n) * static_cast<double>(n);
    report("gram", std::to_string(tokens) + " tokens", update, "whole product", whole, flops);
  }

  // From one shift to one so far away that nothing of the last factorisation helps.
  void factor() { shifts("factor", 4); }

  // From one shift to the next, as between two iterations of a solver: it may start from the last factorisation.
  void next_shift() { shifts("next_shift", 1.3); }

  void inverse_factor() {
    const Index n = size_.d_in;
    Matrix u = backend_.matrix(n, n), diagonal = backend_.matrix(1, n), work = backend_.matrix(n, n);
    const Way ours{[&](int) { backend_.inverse_factor(shifted_, u, diagonal); }};
    report("inverse_factor", "", ours, library_inverse(), inverse(work), cubed(n) * 2 / 3);
  }

  void smoother() {
    const auto factor = backend_.factor(gram_);
    factor->set_shift(kShift * mean_);
    const Index rows = size_.d_out, n = size_.d_in;
    const Matrix x = normal(backend_, rows, n, 4);
    Matrix y = backend_.matrix(rows, n);
    const DType type = device_.dense_dtype(kReduced);
    const Uploaded a(device_, random_values(rows * n, 1, type)), b(device_, random_values(n * n, 2, type));
    const Uploaded c(device_, random_values(rows * n, 3, type));
    const Way ours{[&](int) { factor->apply_smoother(x, y); }};
    const Way plain{[&](int) { device_.dense(a.data(), b.data(), c.data(), rows, n, n, type); }, 1, true};
    const double flops = 2 * static_cast<double>(rows) * static_cast<double>(n) * static_cast<double>(n);
    report("smoother", "", ours, device_.dense_name(kReduced), plain, flops);
  }

  void orthonormalise(Index rank) {
    const Index n = size_.d_out;
    if (rank > n) return;
    const Matrix from = normal(backend_, n, rank, 5), flipped = normal(backend_, rank, n, 6);
    Matrix y = backend_.matrix(n, rank), work = backend_.matrix(rank, n);
    const Way ours{[&](int) {
      backend_.copy(from, y);
      backend_.orthonormalise(y);
    }};
    const Way theirs{[&](int) {
                       backend_.copy(flipped, work);
                       device_.orthonormalise(work.view().data, n, rank);
                     },
                     1, true};
    const double flops = 4 * static_cast<double>(n) * static_cast<double>(rank * rank);
    report("orthonormalise", "rank " + std::to_string(rank), ours, library() + " geqrf + orgqr", theirs, flops, rank);
  }

  void truncated_svd(Index rank) {
    if (rank > std::min(size_.d_out, size_.d_in)) return;
    const Matrix x = normal(backend_, size_.d_out, size_.d_in, 7), right = normal(backend_, rank, size_.d_in, 8);
    Matrix u = backend_.matrix(size_.d_out, rank), v = backend_.matrix(rank, size_.d_in);
    const Way ours{[&](int) { best_factors(backend_, x, u, v); }};
    const Way sketch{[&](int) {
                       device_.dense(x.view().data, right.view().data, u.view().data, size_.d_out, rank, size_.d_in,
                                     DType::f32);
                     },
                     1, true};
    const double flops = 2 * static_cast<double>(size_.d_out * size_.d_in) * static_cast<double>(rank);
    report("truncated_svd", "rank " + std::to_string(rank), ours, "one thin product", sketch, flops, rank);
  }

 private:
  std::string library() const { return device_.name() == "cpu" ? "OpenBLAS" : "cuSOLVER"; }
  std::string library_inverse() const { return library() + " potrf + potri"; }
  Way inverse(Matrix& work) {
    return {[this, &work](int) {
              backend_.copy(shifted_, work);
              device_.invert(work.view().data, size_.d_in);
            },
            1, true};
  }

  void shifts(const std::string& operation, double ratio) {
    const auto factor = backend_.factor(gram_);
    Matrix work = backend_.matrix(size_.d_in, size_.d_in);
    const Way ours{[&](int i) { factor->set_shift((i % 2 == 0 ? kShift : kShift * ratio) * mean_); }};
    report(operation, "", ours, library_inverse(), inverse(work), cubed(size_.d_in));
  }

  void report(const std::string& operation, const std::string& detail, const Way& ours, const std::string& name,
              const Way& theirs, double flops, Index rank = 0) {
    const std::vector<Spread> seconds = device_.measure({ours, theirs}, session_.smoke() ? 3 : session_.repeats());
    Row row;
    row.label = std::to_string(size_.d_out) + "x" + std::to_string(size_.d_in) + " " + operation + " " + detail;
    row.where.add("device", device_.name()).add("layer", size_.name).add("d_out", size_.d_out).add("d_in", size_.d_in);
    row.where.add("operation", operation).add("rank", rank);
    row.seconds = seconds[0];
    row.baseline = Baseline{name, seconds[1]};
    row.flops = flops;
    row.ceiling = kReduced;
    session_.write(row);
  }

  Session& session_;
  Backend& backend_;
  Device& device_;
  LayerSize size_;
  Matrix gram_, shifted_;
  double mean_ = 0;
};

void measure(Pieces& pieces, const std::string& operation, const std::vector<Index>& ranks) {
  if (operation == "gram") return pieces.gram();
  if (operation == "factor") return pieces.factor();
  if (operation == "next_shift") return pieces.next_shift();
  if (operation == "inverse_factor") return pieces.inverse_factor();
  if (operation == "smoother") return pieces.smoother();
  const bool basis = operation == "orthonormalise";
  require(basis || operation == "truncated_svd", "--operations: unknown '", operation,
          "'; accepted: gram, factor, next_shift, inverse_factor, smoother, orthonormalise, truncated_svd");
  for (const Index rank : ranks) basis ? pieces.orthonormalise(rank) : pieces.truncated_svd(rank);
}

void run(Session& session) {
  const auto backend = make_backend(session.device().name(), session.device().stream());
  for (const LayerSize& size : session.layers()) {
    Pieces pieces(session, *backend, size);
    for (const std::string& operation : session.options().list("operations"))
      measure(pieces, operation, session.options().numbers("ranks", 1, 4096));
  }
}

}  // namespace
}  // namespace sparlow::bench

int main(int argc, char** argv) {
  return sparlow::bench::run_program(
      {"factor",
       "factorisations and bases that solvers are made of, against LAPACK or cuSOLVER",
       {{"operations", "gram,factor,next_shift,inverse_factor,smoother,orthonormalise,truncated_svd", "which pieces"},
        {"ranks", "64", "of bases and truncated SVDs"}},
       &sparlow::bench::run},
      argc, argv);
}
