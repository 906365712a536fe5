#include "server/bpe.hpp"

#include <algorithm>
#include <array>
#include <queue>
#include <stdexcept>

namespace serve {
namespace {

using Json = nlohmann::json;

// Printable characters of Latin-1 stand for themselves, the other bytes in turn for the characters from U+0100 on.
std::array<std::string, 256> make_spellings() {
  std::array<std::string, 256> spellings;
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    const int code = printable ? byte : next++;
    if (code < 0x80) spellings[byte] = {static_cast<char>(code)};
    else spellings[byte] = {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
  }
  return spellings;
}

std::unordered_map<std::string, char> make_bytes() {
  std::unordered_map<std::string, char> bytes;
  for (int byte = 0; byte < 256; ++byte)
    bytes.emplace(spelling(static_cast<unsigned char>(byte)), static_cast<char>(byte));
  return bytes;
}

std::string spelled(std::string_view word) {
  std::string text;
  for (const char byte : word) text += spelling(static_cast<unsigned char>(byte));
  return text;
}

std::uint64_t key(int left, int right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

void check(const Json& entry) {
  const std::string type = entry.value("type", "");
  if (type != "BPE") throw std::runtime_error("model: type '" + type + "' is not implemented; only BPE is");
  for (const char* name :
       {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"}) {
    const Json value = entry.contains(name) ? entry[name] : Json(nullptr);
    if (!value.is_null() && value != "" && value != false && value != 0)
      throw std::runtime_error(std::string("model: ") + name + " " + value.dump() + " is not implemented");
  }
}

struct Candidate {
  int rank, at, left, right;
  bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
};

}  // namespace

const std::string& spelling(unsigned char byte) {
  static const std::array<std::string, 256> spellings = make_spellings();
  return spellings[byte];
}

std::string spelled_bytes(const std::string& text) {
  static const std::unordered_map<std::string, char> bytes = make_bytes();
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = static_cast<unsigned char>(text[at]) < 0x80 ? 1 : 2;
    const auto found = bytes.find(text.substr(at, length));
    if (found == bytes.end()) return text;
    result += found->second;
    at += length;
  }
  return result;
}

Bpe::Bpe(const Json& entry) {
  check(entry);
  whole_words_ = entry.value("ignore_merges", false);
  for (const auto& [text, token] : entry.at("vocab").items()) vocabulary_.emplace(text, token.get<int>());
  for (const Json& pair : entry.at("merges")) {
    if (pair.is_array()) {
      add_merge(pair.at(0), pair.at(1));
    } else {
      const std::string text = pair;
      const std::size_t space = text.find(' ');
      if (space == std::string::npos) throw std::runtime_error("model: merge '" + text + "' is not a pair");
      add_merge(text.substr(0, space), text.substr(space + 1));
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = vocabulary_.find(spelling(static_cast<unsigned char>(byte)));
    byte_tokens_[byte] = found == vocabulary_.end() ? -1 : found->second;
  }
}

void Bpe::add_merge(const std::string& left, const std::string& right) {
  const auto a = vocabulary_.find(left), b = vocabulary_.find(right), both = vocabulary_.find(left + right);
  if (a == vocabulary_.end() || b == vocabulary_.end() || both == vocabulary_.end())
    throw std::runtime_error("model: merge '" + left + "' '" + right + "' has a token that is not in vocab");
  const int rank = static_cast<int>(merges_.size());
  merges_.try_emplace(key(a->second, b->second), Merge{rank, both->second});
}

const Bpe::Merge* Bpe::merge(int left, int right) const {
  const auto found = merges_.find(key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

// A heap of candidates: a word may be as long as a request.
void Bpe::merge_all(std::vector<Symbol>& symbols) const {
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap;
  const auto consider = [&](int at) {
    if (at < 0 || symbols[at].after < 0) return;
    const int left = symbols[at].token, right = symbols[symbols[at].after].token;
    if (const Merge* found = merge(left, right)) heap.push({found->rank, at, left, right});
  };
  for (int at = 0; at + 1 < static_cast<int>(symbols.size()); ++at) consider(at);
  while (!heap.empty()) {
    const Candidate best = heap.top();
    heap.pop();
    Symbol& left = symbols[best.at];
    if (left.token != best.left || left.after < 0 || symbols[left.after].token != best.right) continue;  // merged since
    Symbol& right = symbols[left.after];
    left.token = merge(best.left, best.right)->token;
    left.after = right.after;
    if (right.after >= 0) symbols[right.after].before = best.at;
    right.token = -1;
    consider(left.before);
    consider(best.at);
  }
}

void Bpe::encode(std::string_view word, std::vector<int>& tokens) const {
  if (whole_words_)
    if (const auto found = vocabulary_.find(spelled(word)); found != vocabulary_.end()) {
      tokens.push_back(found->second);
      return;
    }
  std::vector<Symbol> symbols;
  for (const char byte : word) {
    const int token = byte_tokens_[static_cast<unsigned char>(byte)], at = static_cast<int>(symbols.size());
    if (token >= 0) symbols.push_back({token, at - 1, at + 1});
  }
  if (symbols.empty()) return;
  symbols.back().after = -1;
  merge_all(symbols);
  for (int at = 0; at >= 0; at = symbols[at].after) tokens.push_back(symbols[at].token);
}

}  // namespace serve
