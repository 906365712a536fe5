/* A C99 program of somebody else: runs every layer of a checkpoint on the CPU and compares it with products of its own
 * making; decomposes a matrix; provokes errors. Usage: embed_c FOLDER */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sparlow/sparlow.h"

static int failures = 0;

static void expect(int holds, const char* what) {
  if (holds) return;
  ++failures;
  printf("FAILED: %s (last error: %s)\n", what, sparlow_last_error());
}

static float read_value(const void* data, sparlow_dtype dtype, int64_t index) {
  uint32_t bits;
  float value;
  if (dtype == SPARLOW_F32) return ((const float*)data)[index];
  bits = (uint32_t)((const uint16_t*)data)[index] << 16;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static void write_value(void* data, sparlow_dtype dtype, int64_t index, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (dtype == SPARLOW_F32) ((float*)data)[index] = value;
  else ((uint16_t*)data)[index] = (uint16_t)(bits >> 16);
}

static const void* part(const sparlow_checkpoint* checkpoint, const char* layer, const char* key) {
  char name[256];
  sparlow_tensor_info info = {0};
  info.size = sizeof info;
  snprintf(name, sizeof name, "%s.%s", layer, key);
  return sparlow_checkpoint_find_tensor(checkpoint, name, &info) == SPARLOW_OK ? info.data : NULL;
}

/* w = s + u v, from the stored bytes. */
static double* dense_weight(const sparlow_checkpoint* checkpoint, const sparlow_layer_info* info) {
  const void* values = part(checkpoint, info->name, "weight_packed");
  const void *u = part(checkpoint, info->name, "low_rank_u"), *v = part(checkpoint, info->name, "low_rank_v");
  const uint8_t* meta = part(checkpoint, info->name, "weight_meta");
  const int64_t row_bytes = (info->d_in + 7) / 8;
  double* w = calloc((size_t)(info->d_out * info->d_in), sizeof *w);
  int64_t next = 0;
  for (int64_t i = 0; i < info->d_out; ++i)
    for (int64_t j = 0; j < info->d_in; ++j) {
      double* to = &w[i * info->d_in + j];
      if (info->format == SPARLOW_DENSE) {
        *to = read_value(values, info->dtype, next++);
      } else if (info->format == SPARLOW_BITMAP) {
        if (meta[i * row_bytes + j / 8] >> (j % 8) & 1) *to = read_value(values, info->dtype, next++);
      } else {
        const unsigned nibble = meta[i * row_bytes + j / 8] >> (j / 4 % 2 * 4) & 15u;
        if ((nibble & 3u) == (unsigned)(j % 4) || nibble >> 2 == (unsigned)(j % 4))
          *to = read_value(values, info->dtype, next++);
      }
      for (int64_t k = 0; k < info->rank; ++k)
        *to += (double)read_value(u, info->dtype, i * info->rank + k) * read_value(v, info->dtype, k * info->d_in + j);
    }
  return w;
}

static void check_layer(sparlow_context* context, const sparlow_checkpoint* checkpoint,
                        const sparlow_layer_info* info) {
  enum { TOKENS = 3 };
  const size_t size = info->dtype == SPARLOW_F32 ? 4 : 2;
  double *w = dense_weight(checkpoint, info), worst = 0, largest = 0;
  void *x = malloc(TOKENS * (size_t)info->d_in * size), *y = malloc(TOKENS * (size_t)info->d_out * size);
  const void* bias = part(checkpoint, info->name, "bias");
  sparlow_layer* layer = NULL;
  sparlow_forward_args args = {0};
  for (int64_t j = 0; j < TOKENS * info->d_in; ++j) write_value(x, info->dtype, j, (float)sin(0.7 * (double)j));
  expect(sparlow_layer_create(context, checkpoint, info->name, &layer) == SPARLOW_OK, "create a layer");
  args.size = sizeof args;
  args.x = x;
  args.y = y;
  args.tokens = TOKENS;
  expect(sparlow_layer_workspace(layer, TOKENS, &args.workspace_bytes) == SPARLOW_OK, "query the workspace");
  char* memory = malloc((size_t)args.workspace_bytes + 64);
  args.workspace = memory + (64 - (uintptr_t)memory % 64) % 64;
  expect(sparlow_layer_forward(layer, &args) == SPARLOW_OK, "forward");
  for (int64_t t = 0; t < TOKENS; ++t)
    for (int64_t i = 0; i < info->d_out; ++i) {
      double sum = bias == NULL ? 0 : read_value(bias, info->dtype, i);
      for (int64_t j = 0; j < info->d_in; ++j)
        sum += w[i * info->d_in + j] * read_value(x, info->dtype, t * info->d_in + j);
      worst = fmax(worst, fabs(sum - read_value(y, info->dtype, t * info->d_out + i)));
      largest = fmax(largest, fabs(sum));
    }
  expect(largest > 0 && worst <= (info->dtype == SPARLOW_F32 ? 1e-5 : 1e-2) * largest, info->name);
  args.workspace_bytes -= 1;
  expect(sparlow_layer_forward(layer, &args) == SPARLOW_INVALID_ARGUMENT, "too small a workspace is refused");
  sparlow_layer_destroy(layer);
  free(memory);
  free(w);
  free(x);
  free(y);
}

static void check_config(const sparlow_checkpoint* checkpoint) {
  sparlow_value value = {0};
  value.size = sizeof value;
  expect(
      sparlow_checkpoint_value(checkpoint, "config.json", "/quantization_config/quant_method", &value) == SPARLOW_OK &&
          value.kind == SPARLOW_STRING && strcmp(value.text, "sparlow") == 0,
      "a string of config.json");
  expect(sparlow_checkpoint_value(checkpoint, "config.json", "/no/such/place", &value) == SPARLOW_OK &&
             value.kind == SPARLOW_ABSENT && value.text == NULL,
         "a place that config.json does not have");
  expect(sparlow_checkpoint_value(checkpoint, "README.md", "", &value) == SPARLOW_INVALID_ARGUMENT, "another file");
}

static void square(void* user, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) ((int64_t*)user)[i] = i * i;
}

static void check_threads(void) {
  int64_t squares[1000], wrong = 0;
  expect(sparlow_threads() >= 1, "the library has a thread");
  expect(sparlow_parallel_for(1000, 64, square, squares) == SPARLOW_OK, "parallel_for");
  for (int64_t i = 0; i < 1000; ++i) wrong += squares[i] != i * i;
  expect(wrong == 0, "parallel_for calls every index");
  expect(sparlow_set_threads(0) == SPARLOW_INVALID_ARGUMENT, "no threads are refused");
}

static void check_checkpoint(sparlow_context* context, const char* folder) {
  sparlow_checkpoint* checkpoint = NULL;
  sparlow_layer* layer = NULL;
  expect(sparlow_checkpoint_open("no such folder", &checkpoint) == SPARLOW_IO && checkpoint == NULL, "missing folder");
  expect(strstr(sparlow_last_error(), "no such folder") != NULL, "the error names the folder");
  expect(sparlow_checkpoint_open(folder, &checkpoint) == SPARLOW_OK, "open the checkpoint");
  expect(sparlow_checkpoint_layers(checkpoint) > 0, "the checkpoint has layers");
  for (int64_t i = 0; i < sparlow_checkpoint_layers(checkpoint); ++i) {
    sparlow_layer_info info = {0};
    info.size = sizeof info;
    expect(sparlow_checkpoint_layer(checkpoint, i, &info) == SPARLOW_OK, "describe a layer");
    check_layer(context, checkpoint, &info);
  }
  check_config(checkpoint);
  expect(sparlow_layer_create(context, checkpoint, "nothing", &layer) == SPARLOW_INVALID_ARGUMENT, "unknown layer");
  expect(strstr(sparlow_last_error(), "no compressed layer 'nothing'") != NULL, "the error names the layer");
  sparlow_checkpoint_close(checkpoint);
}

static void check_decompose(sparlow_context* context) {
  enum { D_OUT = 16, D_IN = 32, RANK = 2 };
  static float w[D_OUT * D_IN], gram[D_IN * D_IN], s[D_OUT * D_IN], u[D_OUT * RANK], v[RANK * D_IN];
  sparlow_decompose_args args = {0};
  sparlow_report report = {0};
  for (int i = 0; i < D_OUT * D_IN; ++i) w[i] = (float)sin(i * 1.3);
  for (int i = 0; i < D_IN; ++i) gram[i * D_IN + i] = 1.0f + (float)i;
  args.size = sizeof args;
  args.w = w;
  args.gram = gram;
  args.d_out = D_OUT;
  args.d_in = D_IN;
  args.rank = RANK;
  args.s = s;
  args.u = u;
  args.v = v;
  report.size = sizeof report;
  expect(sparlow_decompose(context, &args, &report) == SPARLOW_OK, "decompose");
  expect(report.relative_loss > 0 && report.relative_loss < 0.3 && report.density == 0.5, "the report");
  report.size = offsetof(sparlow_report, loss); /* a program built with an older header */
  report.loss = -1;
  expect(sparlow_decompose(context, &args, &report) == SPARLOW_OK && report.loss == -1, "a shorter struct stays so");
  args.method = "nothing";
  expect(sparlow_decompose(context, &args, NULL) == SPARLOW_INVALID_ARGUMENT, "unknown method");
  args.size = 0;
  expect(sparlow_decompose(context, &args, NULL) == SPARLOW_INVALID_ARGUMENT, "a struct without size");
}

int main(int argc, char** argv) {
  sparlow_context* context = NULL;
  if (argc != 2) return 2;
  expect(sparlow_abi_version() == SPARLOW_ABI_VERSION, "the library belongs to the header");
  expect(sparlow_context_create("tpu", NULL, &context) == SPARLOW_INVALID_ARGUMENT, "unknown device");
  expect(sparlow_context_create("cpu", NULL, &context) == SPARLOW_OK, "create a context");
  check_checkpoint(context, argv[1]);
  check_decompose(context);
  check_threads();
  sparlow_context_destroy(context);
  printf("sparlow %s: %d failures\n", sparlow_version(), failures);
  return failures != 0;
}
