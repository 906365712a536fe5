// What lies between the linear layers, on a GPU. All functions enqueue on a stream and may be captured. Numbers are
// rounded to the model's type, bfloat16 or float16, where transformers rounds them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "sparlow/sparlow.h"

namespace llama::cuda {

// Rows of a matrix that is a part of a wider one.
struct Strided {
  void* data;
  std::int64_t stride;  // elements from row to row
};

// What every row of a call is. Device memory, one entry a row; see Row of model.hpp.
struct RowTable {
  const int *tokens, *slots, *positions;
  int rows;
};

// [layers][slots][kv_heads][context][dim], of one layer.
struct Cache {
  void *keys, *values;
  int kv_heads, context, dim;
};

// The angles of a head's pairs: [context][dim / 2] each, rounded to the model's type.
struct Angles {
  const float *cosines, *sines;
};

void embed(sparlow_dtype dtype, const RowTable& rows, const void* table, int width, void* hidden, cudaStream_t stream);
// hidden += y, if there is one; out = hidden / sqrt(mean square + epsilon) * weight.
void add_norm(sparlow_dtype dtype, int rows, void* hidden, const void* y, const void* weight, float epsilon, int width,
              void* out, cudaStream_t stream);
// Turns q in place; turns k and puts k and v into the cache.
void rotate_and_store(sparlow_dtype dtype, const RowTable& rows, const Strided& q, const Strided& k, const Strided& v,
                      const Angles& angles, int heads, const Cache& cache, cudaStream_t stream);
void silu_multiply(sparlow_dtype dtype, int rows, const Strided& gate, const Strided& up, int width, void* out,
                   cudaStream_t stream);
void add_bias(sparlow_dtype dtype, int rows, const Strided& y, const void* bias, int width, cudaStream_t stream);
// to[i] = from[which[i]], rows of `width`.
void gather(sparlow_dtype dtype, int rows, const int* which, const void* from, int width, void* to,
            cudaStream_t stream);
// The first of the largest logits of every row, or -1 where one is NaN. best: rows of scratch.
void argmax(sparlow_dtype dtype, int rows, const void* logits, int vocabulary, unsigned long long* best, int* tokens,
            cudaStream_t stream);

constexpr int kSplit = 128;    // positions of a block of threads
constexpr int kGroupTile = 4;  // heads of a block that read the same keys

// Bytes of scratch that attention over so many rows needs, and of counters, which must be zero before the first call.
struct AttentionSizes {
  std::int64_t scratch, counters;
};
AttentionSizes attention_sizes(int rows, int heads, const Cache& cache);
bool has_attention(int dim);
// out [rows, heads dim] = softmax(q k / sqrt(dim)) v over the row's slot up to its position. most: positions that any
// row has, at most.
void attention(sparlow_dtype dtype, const RowTable& rows, const Strided& q, int heads, const Cache& cache, int most,
               void* scratch, unsigned* counters, void* out, cudaStream_t stream);

}  // namespace llama::cuda
