// Text to tokens and back by a Hugging Face tokenizer.json with a byte-level BPE: Llama 3, SmolLM2, Qwen and their
// like.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "server/bpe.hpp"
#include "server/splitter.hpp"

namespace serve {

class Tokenizer {
 public:
  // Throws std::runtime_error with the file and the name of what it has that is not implemented.
  explicit Tokenizer(const std::string& file);

  // With the tokens that the file adds before and after a text. Added tokens in the text are recognised.
  std::vector<int> encode(std::string_view text) const;

  // Empty for special tokens, and for those without a text.
  std::string_view bytes(int token) const;

 private:
  struct Added {
    std::string text;
    int token;
  };
  using AddedTokens = std::vector<Added>;  // longest first

  struct Parsed {
    nlohmann::json file;
  };

  explicit Tokenizer(const Parsed& parsed);
  void read_added(const nlohmann::json& entries);
  void read_frame(const nlohmann::json& entry);
  void encode_plain(std::string_view text, std::vector<int>& tokens) const;
  void keep_bytes(int token, std::string bytes);

  bool nfc_ = false;
  Splitter splitter_;
  Bpe bpe_;
  AddedTokens raw_, normalized_;  // looked for before and after normalisation
  std::vector<int> before_, after_;
  std::vector<std::string> bytes_;  // by token
};

}  // namespace serve
