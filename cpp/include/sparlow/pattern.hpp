// What a solver may keep of a matrix: `dense`, `n:m`, `0.5@row`, `0.5@matrix`.
#pragma once

#include <string>
#include <string_view>

#include "sparlow/export.hpp"
#include "sparlow/view.hpp"

namespace sparlow {

struct SPARLOW_API Pattern {
  enum class Kind { dense, nm, row, matrix };

  Kind kind = Kind::dense;
  int n = 0;             // kept entries of a group (kind nm)
  int m = 0;             // group length (kind nm)
  double density = 1.0;  // fraction kept

  // Throws Error(invalid_argument) with the accepted forms when the text is none of them.
  static Pattern parse(std::string_view text);
  std::string str() const;

  // Entries kept of a rows x cols matrix.
  Index kept(Index rows, Index cols) const;
  // Throws Error(invalid_argument) when a rows x cols matrix cannot carry the pattern.
  void check_shape(Index rows, Index cols, std::string_view name) const;
};

}  // namespace sparlow
