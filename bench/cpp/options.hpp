// Command lines: --name value, --name=value, and flags. Every mistake is an Error that names the option, the value and
// what is accepted.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "sparlow/view.hpp"

namespace sparlow::bench {

struct Option {
  const char* name;      // without the dashes
  const char* standard;  // its value when it is not given; null for a flag, which takes no value
  const char* help;
};

class Options {
 public:
  // words: the command line after the program's name. Throws Error(invalid_argument).
  Options(std::vector<Option> known, const std::vector<std::string>& words);

  bool flag(const std::string& name) const { return given_.contains(name); }
  bool given(const std::string& name) const { return given_.contains(name); }
  std::string text(const std::string& name) const;
  // The parts between commas; one of them empty is an error.
  std::vector<std::string> list(const std::string& name) const;
  Index number(const std::string& name, Index low, Index high) const;
  std::vector<Index> numbers(const std::string& name, Index low, Index high) const;

 private:
  const Option& find(const std::string& name) const;
  std::vector<Option> known_;
  std::map<std::string, std::string> given_;
};

// A whole number within [low, high]; `what` is named in the error.
Index whole_number(const std::string& text, const std::string& what, Index low, Index high);

std::string usage(const std::string& program, const std::string& purpose, const std::vector<Option>& known);

}  // namespace sparlow::bench
