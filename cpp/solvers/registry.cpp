#include <array>

#include "solvers/methods.hpp"

namespace sparlow {
namespace {

using Kind = OptionSpec::Kind;

constexpr std::array kThreeBasilOptions = {
    OptionSpec{"iterations", Kind::integer, 60, 1, 10000, "ADMM iterations; 24 is fast, 150 thorough"},
    OptionSpec{"update_every", Kind::integer, 10, 1, 1000, "iterations between updates of the penalty"},
    OptionSpec{"refit_steps", Kind::integer, 5, 1, 1000, "final conjugate-gradient steps on the support, l refitted"},
    OptionSpec{"rho_start", Kind::real, 0, 0, 1e6, "first penalty, in units of the scaled Gram matrix; 0: automatic"},
    OptionSpec{"rho_end", Kind::real, 0, 0, 1e6, "last penalty, geometric in between; 0: automatic"},
    OptionSpec{"relaxation", Kind::real, 1.3, 0.1, 2.0, "over-relaxation of the state update"},
    OptionSpec{"momentum", Kind::real, 0.25, 0, 0.95, "heavy-ball share of the last update"},
};

constexpr std::array kPublishedOptions = {
    OptionSpec{"max_iterations", Kind::integer, 2000, 1, 100000, "ADMM iterations at most"},
    OptionSpec{"check_every", Kind::integer, 10, 1, 1000, "iterations between updates of the penalty"},
    OptionSpec{"rho", Kind::real, 0.1, 1e-6, 1e6, "first penalty, relative to the unit-diagonal Gram matrix"},
};

constexpr OptionSpec kSignRankOption = {kSignRank, Kind::integer, 1, 1, 4096, "rank of the factor under the signs"};

constexpr std::array kSlabOptions = {
    OptionSpec{"sweeps", Kind::integer, 20, 1, 10000, "alternations of signed term and sparse part"},
    OptionSpec{"sparse_first", Kind::flag, 0, 0, 1, "start from Wanda's support: often better for a density, not n:m"},
    kSignRankOption,
};

constexpr std::array kSlabJointOptions = {
    kThreeBasilOptions[0], kThreeBasilOptions[1], kThreeBasilOptions[2], kThreeBasilOptions[3],
    kThreeBasilOptions[4], kThreeBasilOptions[5], kThreeBasilOptions[6], kSignRankOption,
};

constexpr std::array kCapOptions = {
    OptionSpec{"iterations", Kind::integer, 30, 1, 10000, "of robust PCA at most"},
    OptionSpec{"tolerance", Kind::real, 2e-3, 0, 1, "stop when ||w - l - s|| / ||w|| is at most this"},
};

constexpr std::array<Method, 7> kMethods = {{
    {"magnitude",
     "magnitude pruning",
     "largest absolute weights, no data",
     Method::GramUse::none,
     false,
     {},
     run_magnitude},
    {"wanda",
     "Wanda: weights times input norms",
     "Sun, Liu, Bair, Kolter, ICLR 2024, arXiv:2306.11695",
     Method::GramUse::diagonal,
     false,
     {},
     run_wanda},
    {"threebasil", "3BASiL: three-block ADMM for sparse + low rank",
     "Makni, Meng, Mazumder, NeurIPS 2025, arXiv:2603.01376", Method::GramUse::full, true, kThreeBasilOptions,
     run_threebasil},
    {"threebasil_published", "3BASiL with its authors' schedule, as a reference",
     "Makni, Meng, Mazumder, NeurIPS 2025, arXiv:2603.01376", Method::GramUse::full, true, kPublishedOptions,
     run_threebasil_published},
    {"slab", "SLaB: sparse + signs times a low-rank factor", "Li, Ma, Kang, arXiv:2604.04493",
     Method::GramUse::diagonal, false, kSlabOptions, run_slab, true},
    {"slab_joint", "SLaB's terms and low rank, fitted together",
     "terms of arXiv:2604.04493, objective of arXiv:2603.01376", Method::GramUse::full, true, kSlabJointOptions,
     run_slab_joint, true},
    {"cap", "robust PCA, projected on the pattern", "Zhou et al., ICLR 2026, arXiv:2505.03801 (stage one)",
     Method::GramUse::none, true, kCapOptions, run_cap},
}};

}  // namespace

std::span<const Method> methods() { return kMethods; }

}  // namespace sparlow
