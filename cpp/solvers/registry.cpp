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

constexpr std::array kSparseGptOptions = {
    OptionSpec{"block", Kind::integer, 128, 1, 1024,
               "columns between updates of those to their right; a density is met in each block"},
    OptionSpec{"refit_steps", Kind::integer, 0, 0, 1000, "conjugate-gradient steps on the support; 0: as published"},
};

constexpr std::array kAlpsOptions = {
    OptionSpec{"max_iterations", Kind::integer, 300, 1, 100000, "ADMM iterations at most"},
    OptionSpec{"check_every", Kind::integer, 3, 1, 1000, "iterations between updates of the penalty"},
    OptionSpec{"refit_steps", Kind::integer, 10, 0, 1000, "final conjugate-gradient steps on the support"},
    OptionSpec{"rho", Kind::real, 0.1, 1e-6, 1e6, "first penalty, relative to the unit-diagonal Gram matrix"},
};

constexpr std::string_view kPruners[] = {"magnitude", "wanda", "sparsegpt", "alps"};

constexpr std::array kEoraOptions = {
    OptionSpec{"pruner", Kind::choice, 2, 0, 3, "method that makes s: magnitude, wanda, sparsegpt or alps", kPruners},
    OptionSpec{"low_rank_steps", Kind::integer, 16, 1, 1000, "subspace steps of the fit"},
};

constexpr std::array kOatsOptions = {
    OptionSpec{"iterations", Kind::integer, 80, 1, 10000, "alternations of low-rank and sparse step"},
    OptionSpec{"low_rank_steps", Kind::integer, 1, 1, 1000,
               "subspace steps of a low-rank fit, each from the last; 30: exact"},
    OptionSpec{"momentum", Kind::real, 0.95, 0, 0.99,
               "how far each step continues the last move of l; 0: as published"},
};

constexpr std::string_view kUpdatingPruners[] = {"sparsegpt", "alps"};

constexpr std::array kHassleFreeOptions = {
    OptionSpec{"iterations", Kind::integer, 80, 1, 10000, "alternations of sparse and low-rank step"},
    OptionSpec{"pruner", Kind::choice, 0, 0, 1, "sparse step: sparsegpt or alps", kUpdatingPruners},
    OptionSpec{"pruner_iterations", Kind::integer, 100, 1, 10000, "ADMM iterations of an alps step at most"},
    OptionSpec{"low_rank_steps", Kind::integer, 1, 1, 1000,
               "subspace steps of a low-rank fit, each from the last; 30: exact"},
    OptionSpec{"refit_steps", Kind::integer, 5, 0, 1000, "final conjugate-gradient steps, l refitted; 0: as published"},
    OptionSpec{"momentum", Kind::real, 0.8, 0, 0.99, "how far each step continues the last move of l; 0: as published"},
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

constexpr Method kMethods[] = {
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
    {"sparsegpt", "SparseGPT: column by column, errors made up by later columns",
     "Frantar, Alistarh, ICML 2023, arXiv:2301.00774", Method::GramUse::full, false, kSparseGptOptions, run_sparsegpt},
    {"alps", "ALPS: ADMM on the support, then conjugate gradients",
     "Meng, Behdin, Wang, Mazumder, NeurIPS 2024, arXiv:2406.07831", Method::GramUse::full, false, kAlpsOptions,
     run_alps},
    {"hassle_free", "HASSLE-free: pruner and low-rank fit in turn",
     "Makni, Behdin, Xu, Ponomareva, Mazumder, CPAL 2025, arXiv:2502.00899", Method::GramUse::full, true,
     kHassleFreeOptions, run_hassle_free},
    {"eora", "EoRA: the best low-rank correction of a pruned weight", "Liu et al., 2024, arXiv:2410.21271",
     Method::GramUse::full, true, kEoraOptions, run_eora},
    {"oats", "OATS: truncated SVD and thresholds in turn", "Zhang, Papyan, ICLR 2025, arXiv:2409.13652",
     Method::GramUse::diagonal, true, kOatsOptions, run_oats},
    {"slab", "SLaB: sparse + signs times a low-rank factor", "Li, Ma, Kang, arXiv:2604.04493",
     Method::GramUse::diagonal, false, kSlabOptions, run_slab, true},
    {"slab_joint", "SLaB's terms and low rank, fitted together",
     "terms of arXiv:2604.04493, objective of arXiv:2603.01376", Method::GramUse::full, true, kSlabJointOptions,
     run_slab_joint, true},
    {"cap", "robust PCA, projected on the pattern", "Zhou et al., ICLR 2026, arXiv:2505.03801 (stage one)",
     Method::GramUse::none, true, kCapOptions, run_cap},
};

}  // namespace

std::span<const Method> methods() { return kMethods; }

}  // namespace sparlow
