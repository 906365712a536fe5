// Backends made from backends.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "sparlow/backend.hpp"
#include "sparlow/export.hpp"

namespace sparlow {

struct OpCount {
  std::int64_t calls = 0;
  double seconds = 0;  // host time until the call returned; device backends wait after each traced call
  double flops = 0;
  double bytes = 0;  // read and written, counted from the shapes
};

// Counts calls, time, flops and bytes of every operation of another backend.
class TraceBackend;
// Runs no arithmetic and allocates nothing: counts the memory and the flops a solver would need.
class DryRunBackend;

struct Trace {
  std::unique_ptr<Backend> backend;
  std::shared_ptr<std::map<std::string, OpCount>> counts;
};
SPARLOW_API Trace make_trace(Backend& inner);

struct Estimate {
  std::size_t peak_bytes = 0;
  std::size_t live_bytes = 0;
  double flops = 0;
};
struct DryRun {
  std::unique_ptr<Backend> backend;
  std::shared_ptr<Estimate> estimate;
};
SPARLOW_API DryRun make_dry_run();

}  // namespace sparlow
