#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace sparlow::io {

// A file mapped for reading. Move-only.
class MappedFile {
 public:
  // Throws Error(io) naming the path.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  const void* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::string_view text() const { return {static_cast<const char*>(data_), size_}; }

 private:
  const void* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace sparlow::io
