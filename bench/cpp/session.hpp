// What all benches share: common options, the device, ceilings, and rows as a table and as JSON lines.
//
// JSON lines: one of kind "run" (command, versions, hardware), one of kind "ceiling" for every plain product measured,
// then one of kind "row" for each measurement: `case` says what was measured and identifies it, `seconds` has the
// median and quartiles of one call, `baseline` the same of what it is compared with in the same run. With --model one
// of kind "total" for the sum over all layers of the model.
#pragma once

#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "device.hpp"
#include "json.hpp"
#include "options.hpp"
#include "shapes.hpp"
#include "statistics.hpp"

namespace sparlow::bench {

struct Baseline {
  std::string name;
  Spread seconds;
};

struct Row {
  std::string label;  // of the table
  Json where;         // the case
  Spread seconds;
  std::optional<Baseline> baseline;
  double bytes = 0, flops = 0;  // that the call cannot do without
  double dense_flops = 0;       // of the same product with a dense matrix; 0: flops
  DType ceiling = DType::f32;   // element type of the plain product that bounds it
  Json more;                    // anything else
};

class Session {
 public:
  Session(std::string bench, Options options, std::string command);

  const Options& options() const { return options_; }
  Device& device() { return *device_; }
  bool smoke() const { return options_.flag("smoke"); }
  int repeats() const { return static_cast<int>(options_.number("repeats", 1, 10000)); }
  // Of --model or --shapes; what --smoke makes of them when neither is given.
  std::vector<LayerSize> layers() const;
  const Ceilings& ceilings(DType dtype);
  void write(const Row& row);
  void note(const std::string& text);  // a line of the table only
  void line(const Json& json);         // a JSON line only

 private:
  std::string bench_;
  Options options_;
  std::unique_ptr<Device> device_;
  std::map<std::string, Ceilings> ceilings_;
  std::ofstream file_;
};

struct Program {
  const char* name;  // "forward"
  const char* purpose;
  std::vector<Option> options;  // beside the common ones
  void (*run)(Session& session);
};

// 0, 2 for a mistake in what was asked, 1 for a failure; errors are one line on stderr.
int run_program(const Program& program, int argc, char** argv);

}  // namespace sparlow::bench
