#include "options.hpp"

#include <charconv>
#include <functional>
#include <map>

namespace llama {

const char* const kUsage =
    "usage: llama FOLDER --prompt-ids 1,2,3 [--prompt-ids ...] [options]\n"
    "       llama FOLDER --bench [options]\n"
    "       llama --random 8b [--dense] [--rank 64] --bench [options]\n"
    "\n"
    "FOLDER holds config.json and safetensors: a sparlow checkpoint, or a dense model of the Llama family.\n"
    "The answers' token ids are printed, a line for each prompt.\n"
    "\n"
    "  --prompt-ids IDS      token ids with commas between them; may be given several times\n"
    "  --tokens N            tokens to generate (64); fewer when an end-of-sequence token comes\n"
    "  --device D            cpu, cuda or cuda:N (cpu)\n"
    "  --dtype D             float32, bfloat16, float16; auto: the folder's, on a GPU bfloat16 for float32 (auto)\n"
    "  --temperature T       0: the likeliest token (0)\n"
    "  --top-p P             sample among the likeliest tokens of this much probability together (1)\n"
    "  --seed N              (0)\n"
    "  --slots N             prompts that are answered at the same time (1)\n"
    "  --context N           most tokens of a prompt and its answer (2048)\n"
    "  --prefill N           most prompt tokens that are computed together (256)\n"
    "  --threads N           of the CPU (OMP_NUM_THREADS, or the cores)\n"
    "  --bench               time prompts of --bench-prompt tokens in every slot and their answers; one line of JSON\n"
    "  --bench-prompt N      (128)\n"
    "  --random SHAPE        random weights instead of a folder: 8b, 135m (shapes of Llama-3-8B, SmolLM2) or tiny\n"
    "  --dense               random weights that are not compressed, instead of 2:4 + low rank\n"
    "  --rank N              of the low-rank part (64)\n";

namespace {

template <class T>
T number(const std::string& name, const std::string& text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) throw Usage(name + " cannot be '" + text + "'");
  return value;
}

std::vector<int> ids(const std::string& name, const std::string& text) {
  std::vector<int> out;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    out.push_back(number<int>(name, text.substr(begin, end - begin)));
    begin = end + 1;
  }
  return out;
}

void check(const Options& options) {
  if (options.folder.empty() == options.random.empty()) throw Usage("give either a FOLDER or --random");
  if (options.prompts.empty() && !options.bench) throw Usage("give --prompt-ids or --bench");
  if (options.dense && options.random.empty()) throw Usage("--dense belongs to --random; a dense folder needs no flag");
  if (options.tokens < 1) throw Usage("--tokens must be 1 or more");
  if (options.rank < 0) throw Usage("--rank must be 0 or more");
  if (options.bench_prompt < 1) throw Usage("--bench-prompt must be 1 or more");
}

}  // namespace

Options parse_options(int count, const char* const* arguments) {
  Options out;
  using Take = std::function<void(const std::string&, const std::string&)>;
  const auto text = [](std::string& to) -> Take { return [&to](const auto&, const auto& value) { to = value; }; };
  const auto any = [](auto& to) -> Take {
    return [&to](const auto& name, const auto& value) { to = number<std::decay_t<decltype(to)>>(name, value); };
  };
  const std::map<std::string, Take> valued = {
      {"--prompt-ids", [&](const auto& name, const auto& value) { out.prompts.push_back(ids(name, value)); }},
      {"--tokens", any(out.tokens)},
      {"--device", text(out.engine.device)},
      {"--dtype", text(out.engine.dtype)},
      {"--temperature", any(out.sampling.temperature)},
      {"--top-p", any(out.sampling.top_p)},
      {"--seed", any(out.sampling.seed)},
      {"--slots", any(out.engine.slots)},
      {"--context", any(out.engine.context)},
      {"--prefill", any(out.engine.prefill)},
      {"--threads", any(out.engine.threads)},
      {"--bench-prompt", any(out.bench_prompt)},
      {"--random", text(out.random)},
      {"--rank", any(out.rank)}};
  const std::map<std::string, bool*> flags = {{"--bench", &out.bench}, {"--dense", &out.dense}};
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    if (const auto flag = flags.find(argument); flag != flags.end()) {
      *flag->second = true;
    } else if (const auto option = valued.find(argument); option != valued.end()) {
      if (i + 1 == count) throw Usage(argument + " needs a value");
      option->second(argument, arguments[++i]);
    } else if (argument.rfind("--", 0) == 0 || !out.folder.empty()) {
      throw Usage("unknown argument '" + argument + "'");
    } else {
      out.folder = argument;
    }
  }
  check(out);
  return out;
}

}  // namespace llama
