// Packed formats: round trips and bytes, in plain host memory with no slack behind it.
#include <algorithm>
#include <cstring>
#include <memory>
#include <random>

#include "sparlow/format.hpp"
#include "support.hpp"

namespace sparlow::test {
TEST_SUITE_BEGIN("formats");

namespace {

// Elements whose values are their bits; `kept` of every four consecutive ones are not zero.
template <typename T>
std::vector<T> sparse(Index rows, Index cols, int kept) {
  std::mt19937_64 engine(1);
  std::vector<T> s(static_cast<std::size_t>(rows * cols));
  for (std::size_t i = 0; i < s.size(); ++i) s[i] = static_cast<T>(engine() | 1);
  for (std::size_t i = 0; i < s.size(); i += 4) {
    std::vector<std::size_t> order = {0, 1, 2, 3};
    std::shuffle(order.begin(), order.end(), engine);
    for (std::size_t k = static_cast<std::size_t>(kept); k < 4; ++k)
      if (i + order[k] < s.size()) s[i + order[k]] = 0;
  }
  return s;
}

template <typename T>
void check_nm24(Index rows, Index cols, int kept) {
  const std::vector<T> s = sparse<T>(rows, cols, kept);
  std::vector<T> values(s.size() / 2), back(s.size(), 7);
  std::vector<std::uint8_t> meta(static_cast<std::size_t>(rows * meta_cols(cols)), 255);
  nm24_pack(s.data(), rows, cols, sizeof(T), values.data(), meta.data());
  nm24_unpack(values.data(), meta.data(), rows, cols, sizeof(T), back.data());
  CHECK(back == s);
}

template <typename T>
void check_bitmap(Index rows, Index cols, int kept) {
  const std::vector<T> s = sparse<T>(rows, cols, kept);
  const Index count = bitmap_count(s.data(), rows, cols, sizeof(T));
  CHECK(count == static_cast<Index>(s.size()) - std::count(s.begin(), s.end(), T{0}));
  std::vector<T> values(static_cast<std::size_t>(count)), back(s.size(), 7);
  std::vector<std::uint8_t> meta(static_cast<std::size_t>(rows * meta_cols(cols)), 255);
  bitmap_pack(s.data(), rows, cols, sizeof(T), count, values.data(), meta.data());
  bitmap_unpack(values.data(), count, meta.data(), rows, cols, sizeof(T), back.data());
  CHECK(back == s);
}

}  // namespace

TEST_CASE("nm24 returns every 2:4 matrix bit for bit") {
  for (const auto& [rows, cols] : {std::pair<Index, Index>{1, 4}, {3, 8}, {17, 20}, {129, 136}, {0, 8}})
    for (int kept : {0, 1, 2}) {
      check_nm24<std::uint16_t>(rows, cols, kept);
      check_nm24<std::uint32_t>(rows, cols, kept);
      check_nm24<std::uint64_t>(rows, cols, kept);
    }
}

TEST_CASE("bitmap returns every matrix bit for bit, of any width and density") {
  for (const auto& [rows, cols] : {std::pair<Index, Index>{1, 1}, {1, 7}, {3, 8}, {17, 21}, {129, 133}, {0, 5}})
    for (int kept : {0, 1, 3, 4}) {
      check_bitmap<std::uint16_t>(rows, cols, kept);
      check_bitmap<std::uint32_t>(rows, cols, kept);
      check_bitmap<std::uint64_t>(rows, cols, kept);
    }
}

TEST_CASE("negative zero is stored as zero") {
  const std::uint16_t minus = 0x8000, s[4] = {minus, 5, minus, 0};
  std::uint16_t values[2];
  std::uint8_t meta;
  nm24_pack(s, 1, 4, 2, values, &meta);
  CHECK(values[0] == 0);
  CHECK(values[1] == 5);
  CHECK(meta == (0 | 1 << 2));
  CHECK(bitmap_count(s, 1, 4, 2) == 1);
}

TEST_CASE("signs return bit for bit; unused bits are zero") {
  for (const auto& [rows, cols] : {std::pair<Index, Index>{1, 1}, {1, 7}, {3, 8}, {17, 21}, {129, 133}, {0, 5}}) {
    const std::vector<std::uint32_t> random = sparse<std::uint32_t>(rows, cols, 2);
    std::vector<std::uint8_t> positive, back(random.size(), 7);
    for (std::uint32_t x : random) positive.push_back(x != 0);
    std::vector<std::uint8_t> bits(static_cast<std::size_t>(rows * meta_cols(cols)), 255);
    signs_pack(positive.data(), rows, cols, bits.data());
    signs_unpack(bits.data(), rows, cols, back.data());
    CHECK(back == positive);
    for (Index i = 0; i < rows && cols % 8 != 0; ++i) CHECK((bits[(i + 1) * meta_cols(cols) - 1] >> (cols % 8)) == 0);
  }
}

TEST_CASE("what a format cannot hold is refused") {
  const std::vector<std::uint32_t> full(16, 1);
  std::vector<std::uint32_t> values(16);
  std::uint8_t meta[4] = {255, 255, 255, 255};
  refuses("row 0, columns 0 to 3 keep more than two", [&] { nm24_pack(full.data(), 2, 8, 4, values.data(), meta); });
  refuses("2, 4 or 8 bytes, not 3", [&] { bitmap_count(full.data(), 2, 8, 3); });
  refuses("has 16 values that are not zero, room for 15",
          [&] { bitmap_pack(full.data(), 2, 8, 4, 15, values.data(), meta); });
  refuses("marks 16 values, 15 are stored", [&] { bitmap_unpack(full.data(), 15, meta, 2, 8, 4, values.data()); });
}

TEST_SUITE_END();
}  // namespace sparlow::test
