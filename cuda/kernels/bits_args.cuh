// What a forward pass with bit masks knows.
#pragma once

#include <algorithm>

#include "bits_layout.hpp"
#include "nm24_args.cuh"

namespace sparlow::kernels {

struct BitsArgs {
  ForwardArgs common;            // weights: the blocks one after the other
  const std::uint32_t* offsets;  // of a bitmap's blocks in units of 16 bytes; one more at the end
  const uint4* sign_v;           // [column block][rank of the signed term][step][quad lane]
  const void* sign_u;            // [d_out][rank of the signed term]
  int sign_rank;
  int t_units;  // what the blocks before common.first_block share: rank steps of a group of tokens, and of each a share
  int block_capacity;  // bytes of the largest block there may be; in nm24 of every block
};

// How many blocks compute t: one a unit, or up to half as many where row blocks would have to wait for a place on the
// device. room: blocks it holds at a time; 0: not known.
inline int t_blocks(int units, int row_blocks, int room) {
  return row_blocks > room ? units : std::clamp(room - row_blocks, blocks(units, 2), units);
}

}  // namespace sparlow::kernels
