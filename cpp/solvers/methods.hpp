// Entry points behind the registry.
#pragma once

#include "sparlow/solvers.hpp"

namespace sparlow {

void run_magnitude(SolverContext& context);
void run_wanda(SolverContext& context);
void run_sparsegpt(SolverContext& context);
void run_alps(SolverContext& context);
void run_eora(SolverContext& context);
void run_oats(SolverContext& context);
void run_hassle_free(SolverContext& context);
void run_threebasil(SolverContext& context);
void run_threebasil_published(SolverContext& context);
void run_cap(SolverContext& context);
void run_slab(SolverContext& context);
void run_slab_joint(SolverContext& context);

}  // namespace sparlow
