#include "dtype.hpp"

#include <stdexcept>

namespace llama {
namespace {

template <class From, class To>
LLAMA_INLINE void loop(const void* from, void* to, std::int64_t count) {
  const From* x = static_cast<const From*>(from);
  To* y = static_cast<To*>(to);
  for (std::int64_t i = 0; i < count; ++i) y[i] = from_float<To>(to_float(x[i]));
}

template <class From>
LLAMA_INLINE void convert_from(const void* from, void* to, sparlow_dtype to_type, std::int64_t count) {
  if (to_type == SPARLOW_F32) loop<From, float>(from, to, count);
  else if (to_type == SPARLOW_BF16) loop<From, Bf16>(from, to, count);
  else loop<From, F16>(from, to, count);
}

}  // namespace

LLAMA_MULTIVERSION void convert(const void* from, sparlow_dtype from_type, void* to, sparlow_dtype to_type,
                                std::int64_t count) {
  if (from_type == SPARLOW_F32) convert_from<float>(from, to, to_type, count);
  else if (from_type == SPARLOW_BF16) convert_from<Bf16>(from, to, to_type, count);
  else convert_from<F16>(from, to, to_type, count);
}

const char* name_of(sparlow_dtype dtype) {
  return dtype == SPARLOW_F32 ? "float32" : dtype == SPARLOW_BF16 ? "bfloat16" : "float16";
}

sparlow_dtype dtype_named(const std::string& name) {
  for (const sparlow_dtype dtype : {SPARLOW_F32, SPARLOW_BF16, SPARLOW_F16})
    if (name == name_of(dtype)) return dtype;
  throw std::runtime_error("unknown dtype '" + name + "'; float32, bfloat16 and float16 are known");
}

sparlow_dtype dtype_of_tensor(const std::string& tensor, const std::string& dtype) {
  if (dtype == "F32") return SPARLOW_F32;
  if (dtype == "BF16") return SPARLOW_BF16;
  if (dtype == "F16") return SPARLOW_F16;
  throw std::runtime_error("tensor '" + tensor + "' is " + dtype + ", not F32, BF16 or F16");
}

}  // namespace llama
