/* The C interface (C99): open a checkpoint, run its layers, decompose a matrix.
 *
 * Every function that can fail returns a status; 0 is success. sparlow_last_error() then says what was wrong, for the
 * thread that called. Nothing throws, prints or exits. Structs begin with their size: set it to sizeof before a call,
 * so that a library newer than the header, or older, knows which fields there are. Handles are freed with the function
 * beside the one that made them; NULL may be freed. Layers and checkpoints may be used by many threads at once, and so
 * may a context of the CPU; layers of one GPU context are made by one thread at a time.
 *
 * Matrices are row-major: w [d_out, d_in], x [tokens, d_in], y [tokens, d_out]; y = x (s + u v)^T + bias.
 */
#ifndef SPARLOW_H
#define SPARLOW_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SPARLOW_ABI_VERSION 1
#define SPARLOW_C_API __attribute__((visibility("default")))

typedef int32_t sparlow_status;
enum {
  SPARLOW_OK = 0,
  SPARLOW_INVALID_ARGUMENT = 1,
  SPARLOW_OUT_OF_MEMORY = 2,
  SPARLOW_UNAVAILABLE = 3, /* a device, library or feature is not there */
  SPARLOW_NUMERICAL = 4,   /* the data admit no answer */
  SPARLOW_IO = 5,
  SPARLOW_CANCELLED = 6,
  SPARLOW_INTERNAL = 7
};

typedef int32_t sparlow_format;
enum { SPARLOW_NM24 = 0, SPARLOW_BITMAP = 1, SPARLOW_DENSE = 2 };

typedef int32_t sparlow_dtype;
enum { SPARLOW_F32 = 0, SPARLOW_BF16 = 1, SPARLOW_F16 = 2 };

typedef struct sparlow_context sparlow_context;
typedef struct sparlow_checkpoint sparlow_checkpoint;
typedef struct sparlow_layer sparlow_layer;

SPARLOW_C_API const char* sparlow_version(void); /* "0.1.0" */
SPARLOW_C_API int32_t sparlow_abi_version(void);
/* Of the last call of this thread that failed; "" if none did. Valid until its next call that fails. */
SPARLOW_C_API const char* sparlow_last_error(void);

/* device: "cpu", "cuda" or "cuda:N". stream: a cudaStream_t for making layers on, NULL for the default one. */
SPARLOW_C_API sparlow_status sparlow_context_create(const char* device, void* stream, sparlow_context** context);
/* The layers made in it must be gone. */
SPARLOW_C_API void sparlow_context_destroy(sparlow_context* context);

/* A folder as sparlow.save writes it; its shards are mapped, not read. */
SPARLOW_C_API sparlow_status sparlow_checkpoint_open(const char* folder, sparlow_checkpoint** checkpoint);
/* Any model folder: such a checkpoint, or a plain one without compressed layers: config.json and model.safetensors, or
 * the shards that model.safetensors.index.json names. */
SPARLOW_C_API sparlow_status sparlow_checkpoint_open_model(const char* folder, sparlow_checkpoint** checkpoint);
/* Layers on the CPU read the mapped bytes: they must be gone. */
SPARLOW_C_API void sparlow_checkpoint_close(sparlow_checkpoint* checkpoint);
SPARLOW_C_API int64_t sparlow_checkpoint_layers(const sparlow_checkpoint* checkpoint);
SPARLOW_C_API int64_t sparlow_checkpoint_tensors(const sparlow_checkpoint* checkpoint);

typedef int32_t sparlow_kind;
enum {
  SPARLOW_ABSENT = 0, /* the file or the place is not there */
  SPARLOW_NULL = 1,
  SPARLOW_BOOLEAN = 2,
  SPARLOW_NUMBER = 3,
  SPARLOW_STRING = 4,
  SPARLOW_ARRAY = 5,
  SPARLOW_OBJECT = 6
};

typedef struct sparlow_value {
  size_t size;
  sparlow_kind kind;
  int32_t boolean;
  double number;
  int64_t whole;    /* a number without sign, fraction or exponent, exactly; -1 for every other value */
  const char* text; /* of a string; NULL for every other value. Lives as long as the checkpoint */
  int64_t items;    /* of an array or object */
} sparlow_value;

/* What the folder's config.json or generation_config.json (`file`) says at a JSON pointer (RFC 6901), such as
 * "/rope_parameters/rope_theta" or "/eos_token_id/0"; "" is the whole file. Nothing there is no failure. */
SPARLOW_C_API sparlow_status sparlow_checkpoint_value(const sparlow_checkpoint* checkpoint, const char* file,
                                                      const char* pointer, sparlow_value* value);

typedef struct sparlow_layer_info {
  size_t size;
  const char* name;    /* of the module; NULL for a layer without checkpoint. Lives as long as the checkpoint */
  const char* pattern; /* what the solver was allowed to keep: "2:4". The same */
  sparlow_format format;
  sparlow_dtype dtype; /* of values, factors, bias, x and y */
  int64_t d_out, d_in, rank;
  int64_t stored; /* values of s that are stored */
  int32_t has_bias;
} sparlow_layer_info;

typedef struct sparlow_tensor_info {
  size_t size;
  const char* name;
  const char* dtype; /* as safetensors spells it: "BF16", "F32", "U8" */
  const int64_t* shape;
  int64_t dimensions;
  const void* data; /* host memory, mapped */
  int64_t bytes;
} sparlow_tensor_info;

/* Layers in the order of config.json, tensors (all of them, those of layers too) by name. */
SPARLOW_C_API sparlow_status sparlow_checkpoint_layer(const sparlow_checkpoint* checkpoint, int64_t index,
                                                      sparlow_layer_info* info);
SPARLOW_C_API sparlow_status sparlow_checkpoint_tensor(const sparlow_checkpoint* checkpoint, int64_t index,
                                                       sparlow_tensor_info* info);
SPARLOW_C_API sparlow_status sparlow_checkpoint_find_tensor(const sparlow_checkpoint* checkpoint, const char* name,
                                                            sparlow_tensor_info* info);

/* The checkpoint's layout (format.hpp), contiguous host memory; what the format or rank does not need may be NULL. */
typedef struct sparlow_layer_tensors {
  size_t size;
  const void* values;
  const uint8_t* meta;
  const void *u, *v, *bias;
} sparlow_layer_tensors;

SPARLOW_C_API sparlow_status sparlow_layer_create(sparlow_context* context, const sparlow_checkpoint* checkpoint,
                                                  const char* name, sparlow_layer** layer);
/* On the CPU the tensors must outlive the layer. */
SPARLOW_C_API sparlow_status sparlow_layer_create_from(sparlow_context* context, const sparlow_layer_info* info,
                                                       const sparlow_layer_tensors* tensors, sparlow_layer** layer);
SPARLOW_C_API void sparlow_layer_destroy(sparlow_layer* layer);
SPARLOW_C_API sparlow_status sparlow_layer_describe(const sparlow_layer* layer, sparlow_layer_info* info);

/* Host memory, starting at a multiple of 64, that a forward pass of so many tokens needs; 0 on a GPU. */
SPARLOW_C_API sparlow_status sparlow_layer_workspace(const sparlow_layer* layer, int64_t tokens, int64_t* bytes);

typedef struct sparlow_forward_args {
  size_t size;
  const void* x; /* [tokens, d_in] in the layer's dtype and its device's memory, contiguous */
  void* y;       /* [tokens, d_out], the same; must not overlap x */
  int64_t tokens;
  void* workspace; /* used by one call at a time */
  int64_t workspace_bytes;
  void* stream; /* a cudaStream_t; not looked at on the CPU */
} sparlow_forward_args;

/* Allocates nothing (on a GPU: once a number of tokens was seen on a stream), does not wait for a GPU, and may be
 * captured in a CUDA graph. */
SPARLOW_C_API sparlow_status sparlow_layer_forward(const sparlow_layer* layer, const sparlow_forward_args* args);

/* The threads that layers on the CPU use, all layers together: OMP_NUM_THREADS, or the cores this process may use. */
SPARLOW_C_API int32_t sparlow_threads(void);
/* From 1 to 1024. While nothing runs. */
SPARLOW_C_API sparlow_status sparlow_set_threads(int32_t count);
/* Calls body(user, begin, end) from those threads and this one, on disjoint ranges of `grain` indices (the last may be
 * shorter) that cover [0, count), so that what a program computes between layers needs no threads beside them. Returns
 * when all calls have. Within a call, or while another thread's call runs, this thread does all of it. */
typedef void (*sparlow_body)(void* user, int64_t begin, int64_t end);
SPARLOW_C_API sparlow_status sparlow_parallel_for(int64_t count, int64_t grain, sparlow_body body, void* user);

typedef struct sparlow_decompose_args {
  size_t size;
  const float* w;    /* [d_out, d_in], host */
  const float* gram; /* [d_in, d_in] = x^T x, symmetric, host; NULL for methods without data */
  int64_t d_out, d_in, rank;
  const char* method;  /* "threebasil", ...; NULL: threebasil */
  const char* pattern; /* "2:4", "0.5@row", ...; NULL: 2:4 */
  uint64_t seed;
  float *s, *u, *v; /* out: [d_out, d_in], [d_out, rank], [rank, d_in], host */
} sparlow_decompose_args;

typedef struct sparlow_report {
  size_t size;
  char status[24]; /* "direct", "completed", "converged", "iteration_limit" */
  int64_t iterations;
  double loss, relative_loss, density, damping_used, seconds;
  int64_t dead_columns;
} sparlow_report;

/* w ~ s + u v. report may be NULL. */
SPARLOW_C_API sparlow_status sparlow_decompose(sparlow_context* context, const sparlow_decompose_args* args,
                                               sparlow_report* report);

#ifdef __cplusplus
}
#endif
#endif
