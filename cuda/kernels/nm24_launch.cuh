// How the 2:4 kernels are started.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <type_traits>

namespace sparlow::kernels {

template <typename... Parameters, typename... Values>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, int threads, int shared, int cluster, bool overlap,
                   cudaStream_t stream, const Values&... values) {
  if (shared > 48 * 1024) {
    const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    if (status != cudaSuccess) return status;
  }
  cudaLaunchAttribute attributes[2]{};
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared, config.stream = stream, config.attrs = attributes;
  if (cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs++].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  }
  if (overlap) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
  return cudaLaunchKernelEx(&config, kernel, values...);
}

// What a tensor copy reads: up to five dimensions of 16-bit elements, contiguous along the first.
struct Boxes {
  const void* data;
  cuuint32_t dimensions;
  cuuint64_t size[5], stride[4];  // elements; bytes
  cuuint32_t box[5];
  CUtensorMapSwizzle swizzle;
};

template <typename T>
cudaError_t map_boxes(const Boxes& boxes, CUtensorMap& map) {
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
    return status == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(entry) : nullptr;
  }();
  if (!encode) return cudaErrorNotSupported;
  constexpr cuuint32_t step[] = {1, 1, 1, 1, 1};
  constexpr bool bf16 = std::is_same_v<T, __nv_bfloat16>;
  const CUresult status =
      encode(&map, bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, boxes.dimensions,
             const_cast<void*>(boxes.data), boxes.size, boxes.stride, boxes.box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
             boxes.swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return status == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// A row-major matrix as boxes of 64 columns and `box` rows with a 128-byte swizzle.
template <typename T>
cudaError_t map_rows(const void* data, int columns, int rows, int box_rows, CUtensorMap& map) {
  const auto width = static_cast<cuuint64_t>(columns);
  return map_boxes<T>({data,
                       2,
                       {width, static_cast<cuuint64_t>(rows)},
                       {2 * width},
                       {64, static_cast<cuuint32_t>(box_rows)},
                       CU_TENSOR_MAP_SWIZZLE_128B},
                      map);
}

// Packed operands as boxes of `box_lines` lines of 128 bytes from each of `box_rows` rows of `lines`: a tensor copy
// takes half the time of bulk copies row by row.
template <typename T>
cudaError_t map_lines(const void* data, int lines, int rows, int box_lines, int box_rows, CUtensorMap& map) {
  const auto count = static_cast<cuuint64_t>(lines);
  return map_boxes<T>({data,
                       3,
                       {64, count, static_cast<cuuint64_t>(rows)},
                       {128, 128 * count},
                       {64, static_cast<cuuint32_t>(box_lines), static_cast<cuuint32_t>(box_rows)},
                       CU_TENSOR_MAP_SWIZZLE_NONE},
                      map);
}

}  // namespace sparlow::kernels
