// Passing numbers from block to block while both run. Every 32-bit number travels with the stamp of its launch in one
// 64-bit word, so that who sees the stamp sees the number: no fence, which under full load of the memory takes several
// microseconds.
#pragma once

#include "nm24_device.cuh"

namespace sparlow::kernels {

struct alignas(16) Mailbox {
  std::uint64_t words[2];
};

__device__ __forceinline__ std::uint64_t stamped(std::uint32_t payload, unsigned stamp) {
  return static_cast<std::uint64_t>(stamp) << 32 | payload;
}

__device__ __forceinline__ void post(Mailbox* box, std::uint32_t first, std::uint32_t second, unsigned stamp) {
  asm volatile("st.relaxed.gpu.global.v2.u64 [%0], {%1, %2};" ::"l"(box), "l"(stamped(first, stamp)),
               "l"(stamped(second, stamp))
               : "memory");
}
__device__ __forceinline__ Mailbox look(const Mailbox* box) {
  Mailbox found;
  asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
               : "=l"(found.words[0]), "=l"(found.words[1])
               : "l"(box)
               : "memory");
  return found;
}

// Has it come? Then `payload` is what was posted.
__device__ __forceinline__ bool take(uint2& payload, const Mailbox* box, unsigned stamp) {
  const Mailbox found = look(box);
  payload = make_uint2(static_cast<std::uint32_t>(found.words[0]), static_cast<std::uint32_t>(found.words[1]));
  return found.words[0] >> 32 == stamp && found.words[1] >> 32 == stamp;
}

}  // namespace sparlow::kernels
