// One bit an entry: 1 is +1, 0 is -1.
#include <algorithm>

#include "cpu/parallel.hpp"
#include "sparlow/format.hpp"

namespace sparlow {

void signs_pack(const std::uint8_t* positive, Index rows, Index cols, std::uint8_t* bits) {
  cpu::parallel_for(rows, cpu::row_grain(cols), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i)
      for (Index b = 0; b < meta_cols(cols); ++b) {
        unsigned byte = 0;
        for (Index j = 8 * b; j < std::min(cols, 8 * b + 8); ++j) byte |= (positive[i * cols + j] != 0) << (j - 8 * b);
        bits[i * meta_cols(cols) + b] = static_cast<std::uint8_t>(byte);
      }
  });
}

void signs_unpack(const std::uint8_t* bits, Index rows, Index cols, std::uint8_t* positive) {
  cpu::parallel_for(rows, cpu::row_grain(cols), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i)
      for (Index j = 0; j < cols; ++j) positive[i * cols + j] = bits[i * meta_cols(cols) + j / 8] >> (j % 8) & 1;
  });
}

}  // namespace sparlow
