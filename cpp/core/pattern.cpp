#include "sparlow/pattern.hpp"

#include <charconv>
#include <cmath>
#include <string>

#include "sparlow/error.hpp"

namespace sparlow {
namespace {

template <typename Number>
bool read(std::string_view text, Number& value) {
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  return status == std::errc() && end == text.data() + text.size();
}

[[noreturn]] void reject(std::string_view text, const char* why) {
  fail(ErrorCode::invalid_argument, "pattern '", text, "' ", why,
       "; accepted forms: '2:4' (keep n of every m inputs), '0.5@row', '0.5@matrix', 'dense'");
}

Pattern parse_group(std::string_view text, std::size_t colon) {
  Pattern pattern;
  pattern.kind = Pattern::Kind::nm;
  if (!read(text.substr(0, colon), pattern.n) || !read(text.substr(colon + 1), pattern.m))
    reject(text, "is not two whole numbers");
  if (pattern.n < 1 || pattern.n >= pattern.m) reject(text, "must keep at least 1 and fewer than m entries");
  if (pattern.m > 256) reject(text, "has groups of more than 256 entries");
  pattern.density = static_cast<double>(pattern.n) / pattern.m;
  return pattern;
}

Pattern parse_density(std::string_view text, std::size_t at) {
  Pattern pattern;
  const std::string_view scope = text.substr(at + 1);
  if (scope == "row") pattern.kind = Pattern::Kind::row;
  else if (scope == "matrix") pattern.kind = Pattern::Kind::matrix;
  else reject(text, "has a scope that is neither row nor matrix");
  if (!read(text.substr(0, at), pattern.density)) reject(text, "does not begin with a number");
  if (!(pattern.density > 0 && pattern.density < 1)) reject(text, "keeps a fraction outside (0, 1)");
  return pattern;
}

}  // namespace

Pattern Pattern::parse(std::string_view text) {
  if (text == "dense") return {};
  if (const auto colon = text.find(':'); colon != text.npos) return parse_group(text, colon);
  if (const auto at = text.find('@'); at != text.npos) return parse_density(text, at);
  reject(text, "is not a pattern");
}

std::string Pattern::str() const {
  if (kind == Kind::dense) return "dense";
  if (kind == Kind::nm) return std::to_string(n) + ":" + std::to_string(m);
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, density).ptr;
  return std::string(digits, end) + (kind == Kind::row ? "@row" : "@matrix");
}

Index Pattern::kept(Index rows, Index cols) const {
  switch (kind) {
    case Kind::dense: return rows * cols;
    case Kind::nm: return rows * (cols / m) * n;
    case Kind::row: return rows * static_cast<Index>(std::llround(density * static_cast<double>(cols)));
    case Kind::matrix: return static_cast<Index>(std::llround(density * static_cast<double>(rows * cols)));
  }
  return 0;
}

void Pattern::check_shape(Index rows, Index cols, std::string_view name) const {
  require(rows > 0 && cols > 0, name, ": a ", rows, " x ", cols, " weight is empty");
  require(kind != Kind::nm || cols % m == 0, name, ": d_in = ", cols, " is not divisible by ", m, " (pattern ", str(),
          "); exclude the layer or give it a pattern whose group length divides ", cols);
  require(kind != Kind::row || kept(1, cols) > 0, name, ": ", str(), " keeps none of ", cols, " inputs");
  require(kept(rows, cols) > 0, name, ": ", str(), " keeps none of ", rows * cols, " entries");
}

}  // namespace sparlow
