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
    OptionSpec{"block", Kind::integer, 128, 1, 1024, "columns between updates of the columns to their right"},
};

constexpr std::array kAlpsOptions = {
    OptionSpec{"max_iterations", Kind::integer, 300, 1, 100000, "ADMM iterations at most"},
    OptionSpec{"check_every", Kind::integer, 3, 1, 1000, "iterations between updates of the penalty"},
    OptionSpec{"refit_steps", Kind::integer, 10, 0, 1000, "final conjugate-gradient steps on the support"},
    OptionSpec{"rho", Kind::real, 0.1, 1e-6, 1e6, "first penalty, relative to the unit-diagonal Gram matrix"},
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
};

}  // namespace

std::span<const Method> methods() { return kMethods; }

}  // namespace sparlow
