#include "server/text_stream.hpp"

#include <algorithm>

namespace serve {
namespace {

constexpr const char* kReplacement = "\xEF\xBF\xBD";

struct Lead {
  std::size_t length;                       // of the character, 0: no character begins so
  unsigned char least = 0x80, most = 0xBF;  // of its second byte
};

Lead lead(unsigned char byte) {
  if (byte < 0x80) return {1};
  if (byte < 0xC2 || byte > 0xF4) return {0};
  if (byte < 0xE0) return {2};
  if (byte == 0xE0) return {3, 0xA0};
  if (byte == 0xED) return {3, 0x80, 0x9F};  // no surrogates
  if (byte < 0xF0) return {3};
  if (byte == 0xF0) return {4, 0x90};
  return byte == 0xF4 ? Lead{4, 0x80, 0x8F} : Lead{4};
}

// How many bytes at `at` fit the character that begins there.
std::size_t fitting(const std::string& bytes, std::size_t at, const Lead& first) {
  std::size_t count = 1;
  for (; count < first.length && at + count < bytes.size(); ++count) {
    const auto byte = static_cast<unsigned char>(bytes[at + count]);
    const bool fits = count == 1 ? byte >= first.least && byte <= first.most : (byte & 0xC0) == 0x80;
    if (!fits) break;
  }
  return count;
}

// How many bytes at the end of `text` begin `stop`.
std::size_t overlap(const std::string& text, const std::string& stop) {
  std::size_t length = std::min(text.size(), stop.size() - 1);
  while (length > 0 && text.compare(text.size() - length, length, stop, 0, length) != 0) --length;
  return length;
}

}  // namespace

void take_characters(std::string& bytes, std::string& text) {
  std::size_t at = 0;
  while (at < bytes.size()) {
    const Lead first = lead(static_cast<unsigned char>(bytes[at]));
    const std::size_t count = fitting(bytes, at, first);
    if (count < first.length && at + count == bytes.size()) break;
    if (count == first.length) text.append(bytes, at, count);
    else text += kReplacement;
    at += count;
  }
  bytes.erase(0, at);
}

std::string TextStream::push(std::string_view bytes) {
  if (stopped_) return "";
  bytes_ += bytes;
  take_characters(bytes_, held_);
  return release();
}

std::string TextStream::release() {
  std::size_t end = std::string::npos;
  for (const std::string& stop : stop_) end = std::min(end, held_.find(stop));
  stopped_ = end != std::string::npos;
  std::size_t keep = stopped_ ? held_.size() - end : 0;
  if (!stopped_)
    for (const std::string& stop : stop_) keep = std::max(keep, overlap(held_, stop));
  std::string certain = held_.substr(0, held_.size() - keep);
  held_.erase(0, certain.size());
  return certain;
}

std::string TextStream::finish() {
  if (stopped_) return "";
  if (!bytes_.empty()) held_ += kReplacement;
  bytes_.clear();
  std::string rest = release();  // a replacement character may complete a stop text
  if (!stopped_) rest += held_;
  return rest;
}

}  // namespace serve
