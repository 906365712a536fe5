// Byte-pair encoding of one word: the pair of neighbours that was learnt first is merged first.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace serve {

class Bpe {
 public:
  // The entry "model" of tokenizer.json. Throws std::runtime_error that names what is not implemented.
  explicit Bpe(const nlohmann::json& entry);

  // Appends the tokens of a word's bytes. A byte that no token stands for has none.
  void encode(std::string_view word, std::vector<int>& tokens) const;

  const std::unordered_map<std::string, int>& vocabulary() const { return vocabulary_; }

 private:
  struct Merge {
    int rank, token;
  };
  struct Symbol {
    int token, before, after;  // neighbours; -1: none
  };

  void add_merge(const std::string& left, const std::string& right);
  const Merge* merge(int left, int right) const;
  void merge_all(std::vector<Symbol>& symbols) const;

  std::unordered_map<std::string, int> vocabulary_;       // spelled in characters that stand for bytes
  std::unordered_map<std::uint64_t, Merge> merges_;       // by left and right token
  std::vector<int> byte_tokens_ = std::vector<int>(256);  // -1: none
  bool whole_words_ = false;                              // a word of the vocabulary is that token, whatever the merges
};

// The character (UTF-8) that stands for a byte in a byte-level vocabulary.
const std::string& spelling(unsigned char byte);
// The bytes that a token's spelling stands for; a spelling with any other character stands for itself.
std::string spelled_bytes(const std::string& text);

}  // namespace serve
