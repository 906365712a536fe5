// The command line.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "engine.hpp"

namespace llama {

struct Usage : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  std::string folder;
  std::string random;  // a shape instead of a folder
  bool dense = false;  // random weights without compression
  int rank = 64;       // of random weights
  std::vector<std::vector<int>> prompts;
  int tokens = 64;
  Sampling sampling;
  EngineOptions engine;
  bool bench = false;
  int bench_prompt = 128;
};

extern const char* const kUsage;

// Throws Usage naming the argument.
Options parse_options(int count, const char* const* arguments);

}  // namespace llama
