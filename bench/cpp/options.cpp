#include "options.hpp"

#include <algorithm>
#include <sstream>

#include "sparlow/error.hpp"
#include "sparlow/solvers.hpp"

namespace sparlow::bench {

Options::Options(std::vector<Option> known, const std::vector<std::string>& words) : known_(std::move(known)) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    require(words[i].starts_with("--"), "'", words[i], "' is no option; options begin with --, see --help");
    const std::size_t equals = words[i].find('=');
    const std::string name = words[i].substr(2, equals == std::string::npos ? equals : equals - 2);
    const bool takes_value = find(name).standard != nullptr;
    require(takes_value || equals == std::string::npos, "--", name, " is a flag and takes no value");
    require(!given_.contains(name), "--", name, " is given twice; several values go into one, separated by commas");
    if (!takes_value) given_[name];
    else if (equals != std::string::npos) given_[name] = words[i].substr(equals + 1);
    else {
      require(i + 1 < words.size(), "--", name, " needs a value, such as ", find(name).standard);
      given_[name] = words[++i];
    }
  }
}

const Option& Options::find(const std::string& name) const {
  std::vector<std::string> names;
  for (const Option& option : known_) {
    if (option.name == name) return option;
    names.emplace_back(option.name);
  }
  fail(ErrorCode::invalid_argument, "unknown option --", name, "; did you mean --", nearest_name(name, names), "?");
}

std::string Options::text(const std::string& name) const {
  const auto found = given_.find(name);
  return found == given_.end() ? find(name).standard : found->second;
}

std::vector<std::string> Options::list(const std::string& name) const {
  std::vector<std::string> parts;
  std::istringstream stream(text(name) + ",");
  for (std::string part; std::getline(stream, part, ',');) {
    require(!part.empty(), "--", name, " '", text(name), "': a value between commas is missing");
    parts.push_back(part);
  }
  return parts;
}

Index Options::number(const std::string& name, Index low, Index high) const {
  return whole_number(text(name), "--" + name, low, high);
}

std::vector<Index> Options::numbers(const std::string& name, Index low, Index high) const {
  std::vector<Index> values;
  for (const std::string& part : list(name)) values.push_back(whole_number(part, "--" + name, low, high));
  return values;
}

Index whole_number(const std::string& text, const std::string& what, Index low, Index high) {
  constexpr std::size_t kMostDigits = 15;
  const bool digits = !text.empty() && text.size() <= kMostDigits &&
                      std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  const Index value = digits ? std::stoll(text) : -1;
  require(digits && value >= low && value <= high, what, ": '", text, "' is not a whole number from ", low, " to ",
          high);
  return value;
}

std::string usage(const std::string& program, const std::string& purpose, const std::vector<Option>& known) {
  std::ostringstream out;
  out << program << ": " << purpose << "\n\n";
  for (const Option& option : known) {
    std::string left = "  --";
    left.append(option.name);
    if (option.standard != nullptr) left.append(" ").append(*option.standard != '\0' ? option.standard : "VALUE");
    out << left << std::string(left.size() < 34 ? 34 - left.size() : 1, ' ') << option.help << "\n";
  }
  return out.str();
}

}  // namespace sparlow::bench
