#include <array>

#include "solvers/methods.hpp"

namespace sparlow {
namespace {

using Kind = OptionSpec::Kind;

constexpr std::array kThreeBasilOptions = {
    OptionSpec{"max_iterations", Kind::integer, 300, 1, 10000, "ADMM iterations at most"},
    OptionSpec{"check_every", Kind::integer, 10, 1, 1000, "iterations between updates of the penalty"},
    OptionSpec{"rho", Kind::real, 0.1, 1e-6, 1e6, "first penalty, relative to the unit diagonal of the Gram matrix"},
    OptionSpec{"refit_rounds", Kind::integer, 3, 0, 100, "final alternations of sparse and low-rank refit; 0: none"},
    OptionSpec{"refit_steps", Kind::integer, 10, 1, 1000, "conjugate-gradient steps on the support in each of them"},
};

constexpr std::array<Method, 3> kMethods = {{
    {"magnitude", "magnitude pruning", "largest absolute weights, no data", Method::GramUse::none, false, {},
     run_magnitude},
    {"wanda", "Wanda: weights times input norms", "Sun, Liu, Bair, Kolter, ICLR 2024, arXiv:2306.11695",
     Method::GramUse::diagonal, false, {}, run_wanda},
    {"threebasil", "3BASiL: three-block ADMM for sparse + low rank",
     "Makni, Meng, Mazumder, NeurIPS 2025, arXiv:2603.01376", Method::GramUse::full, true, kThreeBasilOptions,
     run_threebasil},
}};

}  // namespace

std::span<const Method> methods() { return kMethods; }

}  // namespace sparlow
