#include "bench.hpp"

#include <algorithm>
#include <chrono>
#include <ostream>

namespace llama {
namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Run {
  double prefill = 0;         // seconds until every slot has its first token
  std::vector<double> steps;  // seconds of every step after that
};

Run run(Engine& engine, const Options& options) {
  std::vector<int> slots;
  for (int s = 0; s < engine.slots(); ++s) {
    std::vector<int> prompt;
    for (int i = 0; i < options.bench_prompt; ++i)
      prompt.push_back(static_cast<int>((7919u * static_cast<unsigned>(i) + 104729u * static_cast<unsigned>(s)) %
                                        static_cast<unsigned>(engine.vocabulary())));
    slots.push_back(engine.add(prompt, options.sampling, options.tokens));
  }
  Run out;
  const double begin = seconds();
  for (std::size_t begun = 0; begun < slots.size(); begun += engine.step().size()) continue;
  out.prefill = seconds() - begin;
  for (double last = seconds();;) {
    const bool whole = engine.step().size() == slots.size();  // a slot that ended early makes a step lighter
    const double now = seconds();
    if (!whole) break;
    out.steps.push_back(now - last);
    last = now;
  }
  for (const int slot : slots) engine.remove(slot);
  return out;
}

double at(std::vector<double> sorted, double share) {
  std::sort(sorted.begin(), sorted.end());
  return sorted.empty() ? 0 : sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1))];
}

}  // namespace

void bench(Engine& engine, const Options& options, std::ostream& out) {
  run(engine, options);  // memory, caches, graphs
  const Run timed = run(engine, options);
  const double median = at(timed.steps, 0.5), slots = engine.slots();
  out << "{\"weights\": \"" << (options.random.empty() ? options.folder : "random " + options.random)
      << "\", \"dense\": " << (options.dense ? "true" : "false") << ", \"device\": \"" << options.engine.device
      << "\", \"dtype\": \"" << options.engine.dtype << "\", \"slots\": " << engine.slots()
      << ", \"prompt_tokens\": " << options.bench_prompt << ", \"prefill_ms\": " << 1e3 * timed.prefill
      << ", \"prefill_tokens_per_s\": " << slots * options.bench_prompt / timed.prefill
      << ", \"decode_steps\": " << timed.steps.size() << ", \"decode_ms\": " << 1e3 * median
      << ", \"decode_ms_p10\": " << 1e3 * at(timed.steps, 0.1) << ", \"decode_ms_p90\": " << 1e3 * at(timed.steps, 0.9)
      << ", \"decode_tokens_per_s\": " << (median > 0 ? slots / median : 0) << "}\n";
}

}  // namespace llama
