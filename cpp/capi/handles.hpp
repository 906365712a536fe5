#pragma once

#include <memory>
#include <string>

#include "sparlow/backend.hpp"
#include "sparlow/checkpoint.hpp"
#include "sparlow/layer.hpp"
#include "sparlow/sparlow.h"

struct sparlow_context {
  std::string device;
  sparlow::LinearOps::Stream stream = 0;
  // Null on the CPU, where a backend is made for each decomposition: one backend serves one thread at a time.
  std::shared_ptr<sparlow::Backend> backend;
  std::shared_ptr<sparlow::LinearOps> ops;
};

struct sparlow_checkpoint {
  std::shared_ptr<const sparlow::Checkpoint> content;
};

struct sparlow_layer {
  std::unique_ptr<const sparlow::Layer> content;
  bool has_bias = false;
  std::string name, pattern;  // empty without a checkpoint
};
