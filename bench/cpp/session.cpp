#include "session.hpp"

#include <algorithm>
#include <cstdio>
#include <new>

#include "sparlow/backend.hpp"
#include "sparlow/error.hpp"
#include "sparlow/sparlow.h"
#include "tensors.hpp"

namespace sparlow::bench {
namespace {

std::vector<Option> common_options() {
  return {{"model", "", "layers of a model by its name; see below"},
          {"shapes", "4096x4096", "instead of a model: D_OUTxD_IN, several separated by commas"},
          {"device", "cpu", "cpu, cuda or cuda:N"},
          {"threads", "0", "of the CPU; 0: all cores that this process may use"},
          {"repeats", "15", "measurements behind a median"},
          {"out", "", "a file for the results as JSON lines"},
          {"json", nullptr, "JSON lines on stdout instead of a table"},
          {"smoke", nullptr, "small shapes and few repeats: does it run?"},
          {"help", nullptr, "this"}};
}

std::string joined(const std::vector<std::string>& words, const char* between) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : between) + word;
  return out;
}

std::string column(double value, const char* format) {
  char text[32];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

void print_row(const Row& row, double of_ceiling) {
  const Spread& s = row.seconds;
  std::string line = row.label + std::string(row.label.size() < 44 ? 44 - row.label.size() : 1, ' ');
  line += column(1e6 * s.median, "%11.1f us") + column(1e6 * s.q1, "  (%.1f") + column(1e6 * s.q3, " to %.1f)");
  if (row.baseline) line += "  " + column(row.baseline->seconds.median / s.median, "%.3g") + " x " + row.baseline->name;
  if (row.bytes > 0) line += column(1e-9 * row.bytes / s.median, "  %.1f GB/s");
  const double flops = row.dense_flops > 0 ? row.dense_flops : row.flops;
  if (flops > 0) line += column(1e-12 * flops / s.median, "  %.3g TFLOP/s");
  if (of_ceiling > 0) line += column(100 * of_ceiling, "  %.0f%% of the ceiling");
  std::puts(line.c_str());
  std::fflush(stdout);
}

}  // namespace

Session::Session(std::string bench, Options options, std::string command)
    : bench_(std::move(bench)), options_(std::move(options)) {
  const Index threads = options_.number("threads", 0, 1024);
  if (threads > 0) set_num_threads(static_cast<int>(threads));
  repeats();
  device_ = make_device(options_.text("device"));
  const std::string path = options_.text("out");
  if (!path.empty()) file_.open(path);
  if (!path.empty() && !file_) fail(ErrorCode::io, "--out: cannot write ", path);
  line(Json()
           .add("kind", "run")
           .add("bench", bench_)
           .add("command", command)
           .add("sparlow", sparlow_version())
           .add("compiler", __VERSION__)
           .add("device", device_->facts()));
}

std::vector<LayerSize> Session::layers() const {
  const std::string model = options_.text("model");
  require(model.empty() || !options_.given("shapes"), "--model and --shapes say different things; give one of them");
  if (!model.empty()) return distinct(model_layers(model));
  std::vector<LayerSize> layers;
  if (smoke() && !options_.given("shapes")) return {parse_shape("96x64")};
  for (const std::string& shape : options_.list("shapes")) layers.push_back(parse_shape(shape));
  return layers;
}

const Ceilings& Session::ceilings(DType dtype) {
  const std::string name = device_->dense_name(dtype);
  const auto found = ceilings_.find(name);
  if (found != ceilings_.end()) return found->second;
  const Ceilings& made = ceilings_[name] = measure_ceilings(*device_, dtype, smoke());
  line(Json().add("kind", "ceiling").add("dtype", name_of(device_->dense_dtype(dtype))).add("ceiling", made.json()));
  note("ceilings: " + made.json().str());
  return made;
}

void Session::write(const Row& row) {
  const Ceilings& ceiling = ceilings(row.ceiling);
  const double seconds = row.seconds.median;
  const double floor = std::max(row.bytes / ceiling.bytes_per_s, row.flops / ceiling.flops);
  Json json;
  json.add("kind", "row").add("bench", bench_).add("case", row.where).add("seconds", row.seconds.json());
  if (row.baseline)
    json.add("baseline", row.baseline->name)
        .add("baseline_seconds", row.baseline->seconds.json())
        .add("times_baseline", row.baseline->seconds.median / seconds);
  if (row.bytes > 0) json.add("gbytes_per_s", 1e-9 * row.bytes / seconds);
  const double flops = row.dense_flops > 0 ? row.dense_flops : row.flops;
  if (flops > 0) json.add("tflops", 1e-12 * flops / seconds);
  if (floor > 0) json.add("of_ceiling", floor / seconds);
  line(json.add("more", row.more));
  if (!options_.flag("json")) print_row(row, floor / seconds);
}

void Session::note(const std::string& text) {
  if (!options_.flag("json")) std::puts(text.c_str());
}

void Session::line(const Json& json) {
  if (options_.flag("json")) std::puts(json.str().c_str());
  if (!file_.is_open()) return;
  file_ << json.str() << std::endl;
  if (!file_) fail(ErrorCode::io, "--out: cannot write ", options_.text("out"));
}

int run_program(const Program& program, int argc, char** argv) {
  const std::string name = std::string("bench_") + program.name;
  const std::vector<std::string> words(argv + 1, argv + argc);
  std::vector<Option> known = program.options;
  for (const Option& option : common_options()) known.push_back(option);
  try {
    Options options(known, words);
    if (options.flag("help")) {
      std::puts((usage(name, program.purpose, known) + "\nModels: " + joined(model_names(), ", ")).c_str());
      return 0;
    }
    Session session(program.name, std::move(options), joined({name, joined(words, " ")}, " "));
    program.run(session);
    return 0;
  } catch (const Error& error) {
    std::fprintf(stderr, "%s: error: %s\n", name.c_str(), error.what());
    return error.code() == ErrorCode::invalid_argument ? 2 : 1;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "%s: error: out of memory\n", name.c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: error: %s\n", name.c_str(), error.what());
  }
  return 1;
}

}  // namespace sparlow::bench
