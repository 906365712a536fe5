// Feeds the safetensors reader damaged files: it must refuse them with an Error or return tensors that tile the file.
//
// With clang, -fsanitize=fuzzer calls LLVMFuzzerTestOneInput. Without, -DSTANDALONE makes a program of it:
//   fuzz_safetensors INPUTS SEED FILE... GOOD_FILE      mutates the files that many times
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "sparlow/checkpoint.hpp"
#include "sparlow/error.hpp"

namespace {

long accepted = 0;

void demand(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

void check(const std::vector<sparlow::StoredTensor>& tensors, const std::uint8_t* data, std::size_t size) {
  const std::uint8_t* next = nullptr;
  unsigned sum = 0;
  for (const sparlow::StoredTensor& tensor : tensors) {
    const auto* begin = static_cast<const std::uint8_t*>(tensor.data);
    demand(begin >= data + 8 && begin <= data + size && tensor.bytes >= 0, "a tensor begins outside");
    demand(tensor.bytes <= data + size - begin, "a tensor ends outside");
    demand(next == nullptr || next == begin, "tensors do not follow each other");
    for (std::int64_t i = 0; i < tensor.bytes; ++i) sum += begin[i];
    next = begin + tensor.bytes;
  }
  demand(next == nullptr || next == data + size, "bytes are left over");
  volatile unsigned keep = sum;
  (void)keep;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    check(sparlow::read_safetensors("fuzz", data, size), data, size);
    ++accepted;
  } catch (const sparlow::Error& error) {
    demand(error.code() == sparlow::ErrorCode::invalid_argument, error.what());
    demand(std::strncmp(error.what(), "shard fuzz: ", 12) == 0, error.what());
  }
  return 0;
}

#ifdef STANDALONE
namespace {

using Bytes = std::vector<std::uint8_t>;

const char* const kWords[] = {"{",
                              "}",
                              "[",
                              "]",
                              ",",
                              ":",
                              "\"",
                              "\\u0061",
                              "\\ud8",
                              "-0",
                              "1e9",
                              "0",
                              "9223372036854775807",
                              "18446744073709551616",
                              "null",
                              "F4",
                              "\"U8\"",
                              "\"BF16\"",
                              "[0,0]",
                              "__metadata__",
                              "\"shape\"",
                              "\"dtype\"",
                              "\"data_offsets\"",
                              "\xed\xa0\x80",
                              "\xf4\x90",
                              " "};

struct Mutator {
  std::mt19937_64 engine;

  std::size_t below(std::size_t count) { return count == 0 ? 0 : engine() % count; }

  void insert(Bytes& bytes, const void* data, std::size_t size) {
    const auto* begin = static_cast<const std::uint8_t*>(data);
    bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(below(bytes.size() + 1)), begin, begin + size);
  }

  void once(Bytes& bytes, const Bytes& other) {
    const std::size_t at = below(bytes.size());
    const std::size_t count = std::min(bytes.size() - at, 1 + below(16));
    const auto first = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    switch (below(8)) {
      case 0:
        if (!bytes.empty()) bytes[at] ^= static_cast<std::uint8_t>(1u << below(8));
        break;
      case 1:
        if (!bytes.empty()) bytes[at] = static_cast<std::uint8_t>(engine());
        break;
      case 2: bytes.erase(first, first + static_cast<std::ptrdiff_t>(count)); break;
      case 3:
      case 4: {
        const char* word = kWords[below(std::size(kWords))];
        insert(bytes, word, std::strlen(word));
        break;
      }
      case 5:
        if (!bytes.empty()) bytes[at] = static_cast<std::uint8_t>('0' + below(10));
        break;
      case 6: {
        const Bytes copy(first, first + static_cast<std::ptrdiff_t>(count));
        insert(bytes, copy.data(), count);
        break;
      }
      default: {
        const std::size_t from = below(other.size()), length = std::min(other.size() - from, below(64));
        insert(bytes, other.data() + from, length);
      }
    }
  }

  // Header and data are changed apart, and the length is mostly made right again: else little would get past it.
  Bytes operator()(const Bytes& seed, const Bytes& other) {
    std::uint64_t length = 0;
    if (seed.size() >= 8) std::memcpy(&length, seed.data(), 8);
    length = std::min<std::uint64_t>(length, seed.size() < 8 ? 0 : seed.size() - 8);
    const std::size_t split = seed.size() < 8 ? seed.size() : 8 + length;
    Bytes header(seed.begin() + std::min<std::ptrdiff_t>(8, static_cast<std::ptrdiff_t>(seed.size())),
                 seed.begin() + static_cast<std::ptrdiff_t>(split));
    Bytes data(seed.begin() + static_cast<std::ptrdiff_t>(split), seed.end());
    for (std::size_t i = below(6); i > 0; --i) once(header, other);
    if (below(4) == 0) once(data, other);
    std::uint64_t claimed = below(20) == 0 ? engine() >> below(64) : header.size();
    Bytes out(8);
    std::memcpy(out.data(), &claimed, 8);
    out.insert(out.end(), header.begin(), header.end());
    out.insert(out.end(), data.begin(), data.end());
    return out;
  }
};

Bytes content_of(const char* path) {
  std::ifstream file(path, std::ios::binary);
  demand(file.good(), path);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  std::vector<Bytes> seeds;
  for (int i = 3; i < argc; ++i) seeds.push_back(content_of(argv[i]));
  Mutator mutate{std::mt19937_64(std::strtoull(argv[2], nullptr, 10))};
  const long inputs = std::atol(argv[1]);
  for (long i = 0; i < inputs; ++i) {
    // The last file is a good one: what is nearly right goes deepest.
    const Bytes& seed = mutate.below(2) == 0 ? seeds.back() : seeds[mutate.below(seeds.size())];
    const Bytes input = mutate(seed, seeds[mutate.below(seeds.size())]);
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%ld inputs, %ld accepted\n", inputs, accepted);
  return accepted > 0 ? 0 : 1;
}
#endif
