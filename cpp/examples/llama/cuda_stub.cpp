// In place of the CUDA files in a build without them.
#include <stdexcept>

#include "model.hpp"

namespace llama {

std::unique_ptr<Model> make_cuda_model(const Weights&, sparlow_dtype, const Limits&, const std::string& device) {
  throw std::runtime_error("device '" + device +
                           "': this program was built without CUDA; configure it with -DLLAMA_CUDA=ON");
}

}  // namespace llama
