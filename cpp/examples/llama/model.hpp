// A model on one device: rows of tokens in, logits out. Engines are made of it.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "engine.hpp"
#include "weights.hpp"

namespace llama {

// A token at a position of a slot. A call's rows of one slot are in order and continue what its cache holds.
struct Row {
  int token, slot, position;
  bool wanted;  // its logits
};

class Model {
 public:
  virtual ~Model() = default;
  // At most limits.rows rows, limits.slots of them wanted.
  virtual void run(std::span<const Row> rows) = 0;
  // Of the wanted rows of the last run, counted from 0; both throw std::runtime_error where they are not numbers.
  virtual int likeliest(int wanted) = 0;
  virtual std::span<const float> logits(int wanted) = 0;
};

struct Limits {
  int slots, context, rows;
};

std::unique_ptr<Model> make_cpu_model(const Weights& weights, sparlow_dtype dtype, const Limits& limits);
// Throws std::runtime_error in a program that was built without CUDA.
std::unique_ptr<Model> make_cuda_model(const Weights& weights, sparlow_dtype dtype, const Limits& limits,
                                       const std::string& device);

// weights must live as long as the engine.
std::unique_ptr<Engine> make_engine(std::shared_ptr<const Weights> weights, const EngineOptions& options);

}  // namespace llama
