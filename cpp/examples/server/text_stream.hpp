// Tokens come one by one, text goes out as soon as it is certain: whole characters, and no beginning of a stop text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace serve {

class TextStream {
 public:
  explicit TextStream(std::vector<std::string> stop) : stop_(std::move(stop)) {}

  // The text that has become certain. Nothing more comes once stopped().
  std::string push(std::string_view bytes);
  // What was held back.
  std::string finish();
  // A stop text was there; it and all after it are dropped.
  bool stopped() const { return stopped_; }

 private:
  std::string release();

  std::vector<std::string> stop_;
  std::string bytes_;  // the beginning of a character
  std::string held_;   // text that may be the beginning of a stop text
  bool stopped_ = false;
};

// Moves whole characters from the front of `bytes` to the end of `text`, what cannot become one as U+FFFD for each
// longest piece of a character, as Unicode recommends. The beginning of a character stays.
void take_characters(std::string& bytes, std::string& text);

}  // namespace serve
