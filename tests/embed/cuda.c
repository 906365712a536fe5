/* A C99 program of somebody else on a GPU: every layer of a checkpoint on this program's stream and in its CUDA graphs,
 * against the CPU; layers that a GPU cannot run are refused by name. Usage: embed_cuda_c FOLDER */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sparlow/sparlow.h"

static int failures = 0;
static double worst_called = 0, worst_replayed = 0;

static int expect(int holds, const char* what) {
  if (!holds) {
    ++failures;
    printf("FAILED: %s (last error: %s; CUDA: %s)\n", what, sparlow_last_error(),
           cudaGetErrorString(cudaPeekAtLastError()));
  }
  return holds;
}

static void cuda(cudaError_t status, const char* what) { expect(status == cudaSuccess, what); }

static float value(uint16_t bits) {
  const uint32_t word = (uint32_t)bits << 16;
  float out;
  memcpy(&out, &word, sizeof out);
  return out;
}

/* The largest difference, relative to the largest value; 1 for what is not a number. */
static double difference(const uint16_t* a, const uint16_t* b, int64_t count) {
  double worst = 0, largest = 1e-30;
  for (int64_t i = 0; i < count; ++i) {
    const double gap = fabs((double)value(a[i]) - value(b[i]));
    if (gap != gap) return 1;
    worst = fmax(worst, gap);
    largest = fmax(largest, fabs((double)value(a[i])));
  }
  return worst / largest;
}

static void fill(uint16_t* x, int64_t count, uint32_t seed) {
  for (int64_t j = 0; j < count; ++j) {
    seed = seed * 1664525u + 1013904223u;
    x[j] = (uint16_t)((seed >> 8 & 0x807fu) | 0x3f00u); /* +-0.5 to +-1 */
  }
}

typedef struct {
  const sparlow_layer *on_cpu, *on_gpu;
  int64_t tokens, inputs, outputs;
  uint16_t *x, *want, *got;
  void *device_x, *device_y;
  cudaStream_t stream;
} pass;

static void on_cpu(pass* p) {
  sparlow_forward_args args = {0};
  args.size = sizeof args;
  args.x = p->x;
  args.y = p->want;
  args.tokens = p->tokens;
  expect(sparlow_layer_workspace(p->on_cpu, p->tokens, &args.workspace_bytes) == SPARLOW_OK, "query the workspace");
  char* memory = malloc((size_t)args.workspace_bytes + 64);
  args.workspace = memory + (64 - (uintptr_t)memory % 64) % 64;
  expect(sparlow_layer_forward(p->on_cpu, &args) == SPARLOW_OK, "forward on the CPU");
  free(memory);
}

static int enqueue(pass* p) {
  sparlow_forward_args args = {0};
  args.size = sizeof args;
  args.x = p->device_x;
  args.y = p->device_y;
  args.tokens = p->tokens;
  args.stream = p->stream;
  return expect(sparlow_layer_forward(p->on_gpu, &args) == SPARLOW_OK, "forward on the GPU");
}

/* Inputs of `seed` to the device, y poisoned, `graph` or a call, y back; all in order on the stream. */
static double run(pass* p, uint32_t seed, cudaGraphExec_t graph) {
  fill(p->x, p->inputs, seed);
  on_cpu(p);
  cuda(cudaMemcpyAsync(p->device_x, p->x, (size_t)p->inputs * 2, cudaMemcpyHostToDevice, p->stream), "copy x");
  cuda(cudaMemsetAsync(p->device_y, 0xff, (size_t)p->outputs * 2, p->stream), "poison y");
  if (graph != NULL) cuda(cudaGraphLaunch(graph, p->stream), "launch the graph");
  else enqueue(p);
  cuda(cudaMemcpyAsync(p->got, p->device_y, (size_t)p->outputs * 2, cudaMemcpyDeviceToHost, p->stream), "copy y");
  cuda(cudaStreamSynchronize(p->stream), "wait for the stream");
  return difference(p->want, p->got, p->outputs);
}

static void check_graph(pass* p) {
  cudaGraph_t graph = NULL;
  cudaGraphExec_t executable = NULL;
  cuda(cudaStreamBeginCapture(p->stream, cudaStreamCaptureModeThreadLocal), "begin a capture");
  enqueue(p);
  enqueue(p); /* twice in one graph: the second pass writes the same */
  cuda(cudaStreamEndCapture(p->stream, &graph), "end the capture");
  cuda(cudaGraphInstantiate(&executable, graph, 0), "instantiate the graph");
  if (executable == NULL) return;
  for (uint32_t seed = 2; seed < 5; ++seed) worst_replayed = fmax(worst_replayed, run(p, seed, executable));
  cuda(cudaGraphExecDestroy(executable), "destroy the graph");
  cuda(cudaGraphDestroy(graph), "destroy the captured graph");
}

static void check_tokens(const sparlow_layer* cpu, const sparlow_layer* gpu, const sparlow_layer_info* info,
                         int64_t tokens, cudaStream_t stream) {
  pass p = {cpu, gpu, tokens, tokens * info->d_in, tokens * info->d_out, NULL, NULL, NULL, NULL, NULL, stream};
  p.x = malloc((size_t)p.inputs * 2);
  p.want = malloc((size_t)p.outputs * 2);
  p.got = malloc((size_t)p.outputs * 2);
  cuda(cudaMalloc(&p.device_x, (size_t)p.inputs * 2), "cudaMalloc");
  cuda(cudaMalloc(&p.device_y, (size_t)p.outputs * 2), "cudaMalloc");
  worst_called = fmax(worst_called, run(&p, 1, NULL));
  check_graph(&p);
  cudaFree(p.device_x);
  cudaFree(p.device_y);
  free(p.x);
  free(p.want);
  free(p.got);
}

/* 1 if the GPU ran the layer, 0 if it refused it for a good reason. */
static int check_layer(sparlow_context* cpu, sparlow_context* gpu, const sparlow_checkpoint* checkpoint, int64_t index,
                       cudaStream_t stream) {
  sparlow_layer *mine = NULL, *theirs = NULL;
  sparlow_layer_info info = {0};
  info.size = sizeof info;
  expect(sparlow_checkpoint_layer(checkpoint, index, &info) == SPARLOW_OK, "describe a layer");
  const int runs = info.format == SPARLOW_NM24 && info.dtype != SPARLOW_F32;
  const sparlow_status status = sparlow_layer_create(gpu, checkpoint, info.name, &theirs);
  expect(status == (runs ? SPARLOW_OK : SPARLOW_UNAVAILABLE), info.name);
  if (!runs) expect(strstr(sparlow_last_error(), info.name) != NULL, "the refusal names the layer");
  if (status == SPARLOW_OK && info.dtype == SPARLOW_BF16) {
    const int64_t tokens[] = {1, 5, 16, 64, 200};
    expect(sparlow_layer_create(cpu, checkpoint, info.name, &mine) == SPARLOW_OK, "create on the CPU");
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; ++i) check_tokens(mine, theirs, &info, tokens[i], stream);
  }
  sparlow_layer_destroy(theirs);
  sparlow_layer_destroy(mine);
  return runs;
}

static double decompose(sparlow_context* context) {
  enum { D_OUT = 128, D_IN = 128, RANK = 8 };
  static float w[D_OUT * D_IN], gram[D_IN * D_IN], s[D_OUT * D_IN], u[D_OUT * RANK], v[RANK * D_IN];
  sparlow_decompose_args args = {0};
  sparlow_report report = {0};
  uint32_t seed = 1;
  for (int i = 0; i < D_OUT * D_IN; ++i) {
    seed = seed * 1664525u + 1013904223u;
    w[i] = (float)(seed >> 8) / (1 << 23) - 1;
  }
  for (int i = 0; i < D_IN; ++i) gram[i * D_IN + i] = 1.0f + (float)(i % 7);
  args.size = sizeof args;
  args.w = w, args.gram = gram, args.s = s, args.u = u, args.v = v;
  args.d_out = D_OUT, args.d_in = D_IN, args.rank = RANK;
  report.size = sizeof report;
  expect(sparlow_decompose(context, &args, &report) == SPARLOW_OK, "decompose");
  return report.relative_loss;
}

int main(int argc, char** argv) {
  sparlow_context *cpu = NULL, *gpu = NULL;
  sparlow_checkpoint* checkpoint = NULL;
  cudaStream_t stream = NULL;
  int64_t ran = 0;
  if (argc != 2) return 2;
  cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "create a stream");
  expect(sparlow_context_create("cpu", NULL, &cpu) == SPARLOW_OK, "a context of the CPU");
  if (!expect(sparlow_context_create("cuda", stream, &gpu) == SPARLOW_OK, "a context of the GPU")) return 1;
  if (!expect(sparlow_checkpoint_open(argv[1], &checkpoint) == SPARLOW_OK, "open the checkpoint")) return 1;
  const int64_t layers = sparlow_checkpoint_layers(checkpoint);
  for (int64_t i = 0; i < layers; ++i) ran += check_layer(cpu, gpu, checkpoint, i, stream);
  const double on_host = decompose(cpu), on_device = decompose(gpu);
  expect(worst_called < 2e-2 && worst_replayed < 2e-2, "a GPU gives what the CPU gives");
  expect(on_host > 1e-3 && fabs(on_device / on_host - 1) < 0.05, "a GPU decomposes like the CPU");
  sparlow_checkpoint_close(checkpoint);
  sparlow_context_destroy(gpu);
  sparlow_context_destroy(cpu);
  cuda(cudaStreamDestroy(stream), "destroy the stream");
  printf(
      "%lld of %lld layers on the GPU: worst relative difference %.2e called, %.2e replayed; relative loss of a "
      "matrix %.5f, on the CPU %.5f; %d failures\n",
      (long long)ran, (long long)layers, worst_called, worst_replayed, on_device, on_host, failures);
  return failures != 0;
}
