// A C++20 program of somebody else: decomposes one matrix on the CPU with nothing but the installed package.
#include <cstdio>
#include <vector>

#include "sparlow/solvers.hpp"

namespace {

std::vector<float> noise(std::size_t count, unsigned seed) {
  std::vector<float> values(count);
  for (float& value : values) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<float>(seed >> 8) / (1u << 23) - 1.0f;
  }
  return values;
}

bool decomposes() {
  constexpr sparlow::Index kOut = 32, kIn = 64, kRank = 4;
  const auto backend = sparlow::make_backend("cpu");
  sparlow::Matrix w = backend->matrix(kOut, kIn), x = backend->matrix(128, kIn), gram = backend->matrix(kIn, kIn);
  backend->upload(noise(kOut * kIn, 1), w);
  backend->upload(noise(128 * kIn, 2), x);
  backend->gemm(1, x, sparlow::Op::transpose, x, sparlow::Op::none, 0, gram);
  sparlow::Problem problem;
  problem.targets.push_back({"w", w, kRank});
  problem.pattern = sparlow::Pattern::parse("2:4");
  problem.gram = gram;
  const auto solutions = sparlow::solve(*backend, "threebasil", problem);
  const sparlow::Report& report = solutions.at(0).report;
  std::printf("relative loss %.4f, density %.4f\n", report.relative_loss, report.density);
  return report.relative_loss > 0 && report.relative_loss < 0.2 && report.density <= 0.5;
}

bool explains_errors() {
  try {
    sparlow::make_backend("tpu");
  } catch (const sparlow::Error& error) {
    return error.code() == sparlow::ErrorCode::invalid_argument;
  }
  return false;
}

}  // namespace

int main() { return decomposes() && explains_errors() ? 0 : 1; }
