// The only place where an exception becomes a status.
#pragma once

#include <cstddef>
#include <cstring>
#include <string_view>

#include "sparlow/error.hpp"
#include "sparlow/sparlow.h"

namespace sparlow::capi {

// Keeps the message for this thread; never throws.
void remember(std::string_view message) noexcept;
sparlow_status translate() noexcept;  // of the exception being handled

template <typename Body>
sparlow_status guarded(Body&& body) noexcept {
  try {
    body();
    return SPARLOW_OK;
  } catch (...) {
    return translate();
  }
}

template <typename T>
T& given(T* pointer, const char* name) {
  require(pointer != nullptr, name, " is NULL");
  return *pointer;
}

// A caller's struct in this library's form: fields that the caller does not know are zero.
template <typename T>
T read_struct(const T* from, const char* name) {
  const std::size_t size = given(from, name).size;
  require(size >= sizeof(std::size_t) && size <= 4096, name, ".size is ", size, "; set it to sizeof the struct");
  T out{};
  std::memcpy(&out, from, size < sizeof(T) ? size : sizeof(T));
  return out;
}

// Fills as much as the caller's struct has room for; its size stays.
template <typename T>
void write_struct(T value, T* to, const char* name) {
  const std::size_t size = given(to, name).size;
  require(size >= sizeof(std::size_t) && size <= 4096, name, ".size is ", size, "; set it to sizeof the struct");
  value.size = size;
  std::memcpy(to, &value, size < sizeof(T) ? size : sizeof(T));
}

}  // namespace sparlow::capi
