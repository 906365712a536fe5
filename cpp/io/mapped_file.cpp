#include "io/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "sparlow/error.hpp"

namespace sparlow::io {
namespace {

[[noreturn]] void refuse(const std::string& path, int error) {
  fail(ErrorCode::io, path, " cannot be read: ", std::strerror(error));
}

struct Descriptor {
  int number;
  ~Descriptor() { ::close(number); }
};

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  const int number = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (number < 0) refuse(path, errno);
  const Descriptor file{number};
  struct stat status{};
  if (::fstat(number, &status) != 0) refuse(path, errno);
  if (!S_ISREG(status.st_mode)) fail(ErrorCode::io, path, " is not a file");
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) return;
  void* memory = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, number, 0);
  if (memory == MAP_FAILED) refuse(path, errno);
  data_ = memory;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<void*>(data_), size_);
}

}  // namespace sparlow::io
