#include "server/options.hpp"

#include <charconv>
#include <filesystem>
#include <limits>
#include <span>
#include <stdexcept>

namespace serve {
namespace {

struct Text {
  const char* flag;
  std::string Options::* value;
  const char* help;
};

struct Number {
  const char* flag;
  int Options::* value;
  int least, most;
  const char* help;
};

constexpr int kAny = std::numeric_limits<int>::max();
const Text kTexts[] = {
    {"--name", &Options::name, "the model's name in answers (default: the folder's name)"},
    {"--host", &Options::host, "address to listen on"},
    {"--device", &Options::device, "cpu, cuda or cuda:N"},
    {"--dtype", &Options::dtype, "float32, bfloat16 or float16"},
};
const Number kNumbers[] = {
    {"--port", &Options::port, 0, 65535, "port to listen on; 0: any free one"},
    {"--threads", &Options::threads, 0, 4096, "of the CPU; 0: as many as sparlow takes by itself"},
    {"--slots", &Options::slots, 1, 4096, "requests computed together"},
    {"--context", &Options::context, 1, kAny, "tokens of prompt and answer, for each of them"},
    {"--queue", &Options::queue, 0, kAny, "requests that wait for a slot before others get 503"},
    {"--connections", &Options::connections, 1, kAny, "open connections before others get 503"},
    {"--body-bytes", &Options::body_bytes, 1, kAny, "longest request body"},
    {"--header-seconds", &Options::header_seconds, 1, 86400, "for a request's header; also how long a client may idle"},
    {"--body-seconds", &Options::body_seconds, 1, 86400, "for a request's body"},
    {"--write-seconds", &Options::write_seconds, 1, 86400, "for a client to take each piece of an answer"},
    {"--grace-seconds", &Options::grace_seconds, 0, 86400, "for requests in flight after SIGINT or SIGTERM"},
};

int number(const Number& option, const std::string& word) {
  int value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc() || end != word.data() + word.size() || value < option.least || value > option.most)
    throw std::invalid_argument(std::string(option.flag) + ": '" + word + "' is not a whole number from " +
                                std::to_string(option.least) + " to " + std::to_string(option.most));
  return value;
}

void set(Options& options, const std::string& flag, const std::string& word) {
  for (const Text& option : kTexts)
    if (flag == option.flag) {
      options.*option.value = word;
      return;
    }
  for (const Number& option : kNumbers)
    if (flag == option.flag) {
      options.*option.value = number(option, word);
      return;
    }
  throw std::invalid_argument("unknown option " + flag + "; --help lists them");
}

std::string folder_name(const std::string& folder) {
  const auto path = std::filesystem::absolute(folder).lexically_normal();
  return (path.has_filename() ? path.filename() : path.parent_path().filename()).string();
}

}  // namespace

Options parse_options(int count, const char* const* words) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if (!word.starts_with("--")) {
      if (!options.folder.empty()) throw std::invalid_argument("two model folders: " + options.folder + " and " + word);
      options.folder = word;
    } else if (i + 1 == count) {
      throw std::invalid_argument(word + ": its value is missing");
    } else {
      set(options, word, words[++i]);
    }
  }
  if (options.folder.empty()) throw std::invalid_argument("which model? Name the folder of one; --help lists options");
  if (options.name.empty()) options.name = folder_name(options.folder);
  return options;
}

std::string usage() {
  const Options defaults;
  std::string text =
      "usage: sparlow-server MODEL_FOLDER [OPTION VALUE]...\n"
      "       sparlow-server random:8b[:dense] [OPTION VALUE]...    (random weights, for timing)\n";
  const auto line = [&](const char* flag, const char* help, const std::string& value) {
    text += "  " + std::string(flag) + std::string(18 - std::string(flag).size(), ' ') + help;
    text += value.empty() ? "\n" : " (" + value + ")\n";
  };
  for (const Text& option : kTexts) line(option.flag, option.help, defaults.*option.value);
  for (const Number& option : kNumbers) line(option.flag, option.help, std::to_string(defaults.*option.value));
  return text;
}

}  // namespace serve
