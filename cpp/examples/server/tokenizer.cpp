#include "server/tokenizer.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <stdexcept>

namespace serve {
namespace {

using Json = nlohmann::json;

Json read_json(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw std::runtime_error("cannot be opened");
  return Json::parse(stream);
}

// True for NFC, false for none.
bool read_normalizer(const Json& entry) {
  if (entry.is_null()) return false;
  const std::string type = entry.is_object() ? entry.value("type", "") : "";
  if (type == "NFC") return true;
  if (type != "Sequence") throw std::runtime_error("normalizer: " + type + " is not implemented");
  bool nfc = false;
  for (const Json& part : entry.at("normalizers"))
    if (read_normalizer(part)) nfc = true;
  return nfc;
}

void check_decoder(const Json& entry) {
  const std::string type = entry.is_object() ? entry.value("type", "") : "none";
  if (type != "ByteLevel") throw std::runtime_error("decoder: " + type + " is not implemented");
}

std::string nfc(std::string_view text) {
  utf8proc_uint8_t* made = nullptr;
  const auto length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &made, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owner(made, std::free);
  if (length < 0) throw std::runtime_error(std::string("the text cannot be normalised: ") + utf8proc_errmsg(length));
  return {reinterpret_cast<const char*>(made), static_cast<std::size_t>(length)};
}

// Calls on_text for each stretch of `text` without an added token, on_token for the tokens; of several that begin at
// the same place the longest counts.
template <class Tokens, class OnText, class OnToken>
void cut_at(const Tokens& added, std::string_view text, const OnText& on_text, const OnToken& on_token) {
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto found =
        std::ranges::find_if(added, [&](const auto& entry) { return text.substr(at).starts_with(entry.text); });
    if (found == added.end()) {
      ++at;
      continue;
    }
    if (at > begin) on_text(text.substr(begin, at - begin));
    on_token(found->token);
    begin = at += found->text.size();
  }
  if (begin < text.size()) on_text(text.substr(begin));
}

}  // namespace

Tokenizer::Tokenizer(const std::string& file) try : Tokenizer(Parsed{read_json(file)}) {
} catch (const std::exception& error) {
  throw std::runtime_error(file + ": " + error.what());
}

Tokenizer::Tokenizer(const Parsed& parsed)
    : nfc_(read_normalizer(parsed.file.at("normalizer"))),
      splitter_(parsed.file.at("pre_tokenizer")),
      bpe_(parsed.file.at("model")) {
  const Json& file = parsed.file;
  check_decoder(file.at("decoder"));
  for (const auto& [text, token] : bpe_.vocabulary()) keep_bytes(token, spelled_bytes(text));
  read_added(file.at("added_tokens"));
  read_frame(file.at("post_processor"));
}

void Tokenizer::keep_bytes(int token, std::string bytes) {
  if (token < 0) throw std::runtime_error("token id " + std::to_string(token));
  if (bytes_.size() <= static_cast<std::size_t>(token)) bytes_.resize(token + 1);
  bytes_[token] = std::move(bytes);
}

void Tokenizer::read_added(const Json& entries) {
  for (const Json& entry : entries) {
    std::string text = entry.at("content");
    for (const char* name : {"single_word", "lstrip", "rstrip"})
      if (entry.value(name, false))
        throw std::runtime_error("added token " + text + ": " + name + " is not implemented");
    const int token = entry.at("id");
    keep_bytes(token, entry.value("special", false) ? "" : spelled_bytes(text));
    const bool normalized = entry.value("normalized", true);
    if (normalized && nfc_) text = nfc(text);
    if (!text.empty()) (normalized ? normalized_ : raw_).push_back({std::move(text), token});
  }
  const auto longest_first = [](const Added& a, const Added& b) { return a.text.size() > b.text.size(); };
  std::ranges::stable_sort(raw_, longest_first);
  std::ranges::stable_sort(normalized_, longest_first);
}

// What the post-processor puts around a single text.
void Tokenizer::read_frame(const Json& entry) {
  const std::string type = entry.is_object() ? entry.value("type", "") : "";
  if (type == "Sequence") {
    for (const Json& part : entry.at("processors")) read_frame(part);
  } else if (type == "TemplateProcessing") {
    bool text_seen = false;
    for (const Json& part : entry.at("single")) {
      if (part.contains("Sequence")) {
        text_seen = true;
        continue;
      }
      const std::string name = part.at("SpecialToken").at("id");
      for (const Json& id : entry.at("special_tokens").at(name).at("ids"))
        (text_seen ? after_ : before_).push_back(id.get<int>());
    }
  } else if (!entry.is_null() && type != "ByteLevel") {
    throw std::runtime_error("post_processor: " + type + " is not implemented");
  }
}

void Tokenizer::encode_plain(std::string_view text, std::vector<int>& tokens) const {
  for (const std::string_view word : splitter_.split(text)) bpe_.encode(word, tokens);
}

std::vector<int> Tokenizer::encode(std::string_view text) const {
  std::vector<int> tokens = before_;
  const auto keep = [&](int token) { tokens.push_back(token); };
  const auto plain = [&](std::string_view part) { encode_plain(part, tokens); };
  cut_at(
      raw_, text,
      [&](std::string_view part) {
        const std::string changed = nfc_ ? nfc(part) : "";
        cut_at(normalized_, nfc_ ? std::string_view(changed) : part, plain, keep);
      },
      keep);
  tokens.insert(tokens.end(), after_.begin(), after_.end());
  return tokens;
}

std::string_view Tokenizer::bytes(int token) const {
  return token >= 0 && static_cast<std::size_t>(token) < bytes_.size() ? std::string_view(bytes_[token])
                                                                       : std::string_view();
}

}  // namespace serve
