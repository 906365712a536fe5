#include "server/splitter.hpp"

#include <oniguruma.h>

#include <stdexcept>

namespace serve {
namespace {

using Json = nlohmann::json;

// The words of GPT-2, which the pre-tokenizer ByteLevel stands for.
constexpr const char* kByteLevel = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

[[noreturn]] void refuse(const std::string& what) {
  throw std::runtime_error("pre_tokenizer: " + what + " is not implemented");
}

std::string onig_message(int code) {
  UChar text[ONIG_MAX_ERROR_MESSAGE_LEN];
  const int length = onig_error_code_to_str(text, code);
  return {reinterpret_cast<const char*>(text), static_cast<std::size_t>(length)};
}

const UChar* bytes(const char* text) { return reinterpret_cast<const UChar*>(text); }

}  // namespace

void Splitter::Free::operator()(re_pattern_buffer* regex) const { onig_free(regex); }

Splitter::Splitter(const Json& entry) {
  OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
  onig_initialize(encodings, 1);
  add(entry);
  if (!byte_level_) refuse("one without ByteLevel");
}

void Splitter::add(const Json& entry) {
  const std::string type = entry.is_object() ? entry.value("type", "") : "";
  if (type == "Sequence") {
    for (const Json& part : entry.at("pretokenizers")) add(part);
  } else if (type == "Digits") {
    add_rule(entry.value("individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)", true);
  } else if (type == "Split") {
    add_split(entry);
  } else if (type == "ByteLevel") {
    if (entry.value("add_prefix_space", true)) refuse("ByteLevel with add_prefix_space");
    if (entry.value("use_regex", true)) add_rule(kByteLevel, true);
    byte_level_ = true;
  } else {
    refuse(type.empty() ? "none at all" : type);
  }
  if (byte_level_ && type != "ByteLevel" && type != "Sequence") refuse(type + " after ByteLevel");
}

void Splitter::add_split(const Json& entry) {
  const std::string behavior = entry.at("behavior");
  const bool invert = entry.value("invert", false);
  if (!entry.at("pattern").contains("Regex")) refuse("Split without Regex");
  if (behavior != "Isolated" && !(behavior == "Removed" && invert))
    refuse("Split with behavior " + behavior + (invert ? " and invert" : ""));
  add_rule(entry["pattern"]["Regex"], behavior == "Isolated");
}

void Splitter::add_rule(const std::string& pattern, bool gaps) {
  regex_t* regex = nullptr;
  const UChar* begin = bytes(pattern.data());
  const int code = onig_new(&regex, begin, begin + pattern.size(), ONIG_OPTION_NONE, ONIG_ENCODING_UTF8,
                            ONIG_SYNTAX_DEFAULT, nullptr);
  if (code != ONIG_NORMAL)
    throw std::runtime_error("pre_tokenizer: regular expression " + pattern + ": " + onig_message(code));
  rules_.push_back({std::unique_ptr<re_pattern_buffer, Free>(regex), gaps});
}

void Splitter::apply(const Rule& rule, std::string_view text, Words& words) {
  const std::unique_ptr<OnigRegion, void (*)(OnigRegion*)> region(onig_region_new(),
                                                                  [](OnigRegion* made) { onig_region_free(made, 1); });
  const UChar *begin = bytes(text.data()), *end = begin + text.size();
  std::size_t done = 0;
  for (const UChar* from = begin; from < end;) {
    const int at = onig_search(rule.regex.get(), begin, end, from, end, region.get(), ONIG_OPTION_NONE);
    if (at == ONIG_MISMATCH) break;
    if (at < 0) throw std::runtime_error("the text cannot be split into words: " + onig_message(at));
    const std::size_t first = at, last = region->end[0];
    if (rule.gaps && first > done) words.push_back(text.substr(done, first - done));
    if (last > first) words.push_back(text.substr(first, last - first));
    done = last;
    from = begin + last;
    if (last == first) from += ONIGENC_MBC_ENC_LEN(ONIG_ENCODING_UTF8, from);
  }
  if (rule.gaps && done < text.size()) words.push_back(text.substr(done));
}

Words Splitter::split(std::string_view text) const {
  Words words{text};
  for (const Rule& rule : rules_) {
    Words finer;
    for (const std::string_view word : words) apply(rule, word, finer);
    words = std::move(finer);
  }
  return words;
}

}  // namespace serve
