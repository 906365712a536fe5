// Every failure that crosses the library boundary is one exception type with a code.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

#include "sparlow/export.hpp"

namespace sparlow {

enum class ErrorCode {
  invalid_argument,  // the caller passed something that cannot be used
  out_of_memory,     // an allocation was refused
  unavailable,       // a device, library or feature is not there
  numerical,         // the data admit no answer (not positive definite, NaN)
  io,                // a file could not be read or written
  cancelled,         // the caller asked to stop
  internal           // a broken invariant: a bug in sparlow
};

class SPARLOW_API Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

// Builds the message from its parts: fail(ErrorCode::invalid_argument, "rank ", r, " exceeds ", n).
template <typename... Parts>
[[noreturn]] void fail(ErrorCode code, Parts&&... parts) {
  std::ostringstream text;
  (text << ... << std::forward<Parts>(parts));
  throw Error(code, text.str());
}

template <typename... Parts>
void require(bool condition, Parts&&... parts) {
  if (!condition) fail(ErrorCode::invalid_argument, std::forward<Parts>(parts)...);
}

}  // namespace sparlow
