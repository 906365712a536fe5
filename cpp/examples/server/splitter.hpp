// Cuts text into the words that byte-pair encoding works on, by the regular expressions of tokenizer.json, with the
// engine (Oniguruma) that they were written for.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

struct re_pattern_buffer;

namespace serve {

using Words = std::vector<std::string_view>;

class Splitter {
 public:
  // The entry "pre_tokenizer" of tokenizer.json. Throws std::runtime_error that names what is not implemented.
  explicit Splitter(const nlohmann::json& entry);

  // Words point into `text`, which must be valid UTF-8.
  Words split(std::string_view text) const;

 private:
  struct Free {
    void operator()(re_pattern_buffer* regex) const;
  };
  struct Rule {
    std::unique_ptr<re_pattern_buffer, Free> regex;
    bool gaps;  // what lies between matches is words, too
  };

  void add(const nlohmann::json& entry);
  void add_rule(const std::string& pattern, bool gaps);
  void add_split(const nlohmann::json& entry);
  static void apply(const Rule& rule, std::string_view text, Words& words);

  std::vector<Rule> rules_;
  bool byte_level_ = false;
};

}  // namespace serve
