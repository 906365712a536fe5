#pragma once

#include <cuda_runtime_api.h>

namespace sparlow::bench {

// Adds all words of `from` (a multiple of 16 bytes) into `sum`: a pass over memory that only reads.
cudaError_t read_all(const void* from, std::size_t bytes, unsigned* sum, cudaStream_t stream);

}  // namespace sparlow::bench
