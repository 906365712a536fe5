#include "backend/context.hpp"

#include <algorithm>
#include <string>

#include "kernels/kernels.hpp"

namespace sparlow::cuda {
namespace {

constexpr std::size_t kWorkspace = std::size_t{32} << 20;  // what cuBLAS recommends on Hopper
constexpr std::size_t kGrain = 512;
constexpr std::uint64_t kKept = std::uint64_t{1} << 30;  // freed bytes kept back from other users of the GPU

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string mebibytes(std::uint64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

[[noreturn]] void report_driver() {
  int driver = 0;
  cudaDriverGetVersion(&driver);
  const char* advice = "; install or update the NVIDIA driver, or use device 'cpu'";
  if (driver == 0) fail(ErrorCode::unavailable, "no NVIDIA driver is installed on this machine", advice);
  fail(ErrorCode::unavailable, "the NVIDIA driver supports CUDA ", version_text(driver),
       ", this build of sparlow needs ", version_text(CUDART_VERSION), advice);
}

}  // namespace

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clears an error that is not sticky
  const ErrorCode code = status == cudaErrorMemoryAllocation ? ErrorCode::out_of_memory : ErrorCode::internal;
  fail(code, call, " failed: ", cudaGetErrorString(status), " (", cudaGetErrorName(status), ")");
}

void check(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const ErrorCode code = status == CUBLAS_STATUS_ALLOC_FAILED ? ErrorCode::out_of_memory : ErrorCode::internal;
  fail(code, call, " failed: ", cublasGetStatusString(status));
}

void check(cusolverStatus_t status, const char* call) {
  if (status == CUSOLVER_STATUS_SUCCESS) return;
  const ErrorCode code = status == CUSOLVER_STATUS_ALLOC_FAILED ? ErrorCode::out_of_memory : ErrorCode::internal;
  fail(code, call, " failed with cuSOLVER status ", static_cast<int>(status));
}

void check_device(int device) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver) report_driver();
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0))
    fail(ErrorCode::unavailable,
         "no NVIDIA GPU is visible to this process; check CUDA_VISIBLE_DEVICES, or use device 'cpu'");
  if (status != cudaSuccess)
    fail(ErrorCode::unavailable, "CUDA could not start: ", cudaGetErrorString(status), " (", cudaGetErrorName(status),
         ")");
  if (device >= count)
    fail(ErrorCode::unavailable, "device cuda:", device, " does not exist; ", count, " GPU",
         count == 1 ? " is" : "s are", " visible, numbered from 0");
}

Context::Bind::Bind(const Context& context) : device_(context.device_) {
  check(cudaGetDevice(&previous_), "cudaGetDevice");
  if (previous_ != device_) check(cudaSetDevice(device_), "cudaSetDevice");
}

Context::Bind::~Bind() {
  if (previous_ != device_) cudaSetDevice(previous_);
}

Context::Context(int device, cudaStream_t stream) : device_(device), stream_(stream) {
  const Bind bind(*this);
  if (const cudaError_t status = kernels::has_code_for_device(); status != cudaSuccess) {
    cudaDeviceProp properties{};
    cudaGetDeviceProperties(&properties, device);
    fail(ErrorCode::unavailable, "this build of sparlow has no code for ", properties.name, " (compute capability ",
         properties.major, ".", properties.minor, "): ", cudaGetErrorString(status));
  }
  cudaMemPoolProps pool{};
  pool.allocType = cudaMemAllocationTypePinned;
  pool.location = {cudaMemLocationTypeDevice, device};
  check(cudaMemPoolCreate(&pool_, &pool), "cudaMemPoolCreate");
  std::uint64_t kept = kKept;
  check(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &kept), "cudaMemPoolSetAttribute");
  check(cublasCreate(&blas_), "cublasCreate");
  check(cublasSetStream(blas_, stream_), "cublasSetStream");
  workspace_ = take(kWorkspace);
  check(cublasSetWorkspace(blas_, workspace_, kWorkspace), "cublasSetWorkspace");
}

Context::~Context() {
  if (solver_ != nullptr) cusolverDnDestroy(solver_);
  if (blas_ != nullptr) cublasDestroy(blas_);
  drop_spares();
  if (workspace_ != nullptr) cudaFreeAsync(workspace_, stream_);
  if (pool_ != nullptr) cudaMemPoolDestroy(pool_);
}

cusolverDnHandle_t Context::solver() {
  if (solver_ == nullptr) {
    check(cusolverDnCreate(&solver_), "cusolverDnCreate");
    check(cusolverDnSetStream(solver_, stream_), "cusolverDnSetStream");
  }
  return solver_;
}

void Context::report_full(std::size_t bytes) const {
  std::size_t free = 0, total = 0;
  std::uint64_t high = 0;
  cudaMemGetInfo(&free, &total);
  cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrUsedMemHigh, &high);
  fail(ErrorCode::out_of_memory, "the GPU is out of memory: ", mebibytes(bytes), " requested, ", mebibytes(free),
       " of ", mebibytes(total), " free, sparlow's high-water mark ", mebibytes(high),
       "; lower calibration.batch, close other users of the GPU, or use device 'cpu'");
}

void* Context::take(std::size_t bytes) {
  void* memory = nullptr;
  cudaError_t status = cudaMallocFromPoolAsync(&memory, bytes, pool_, stream_);
  if (status == cudaErrorMemoryAllocation && !spares_.empty()) {
    cudaGetLastError();
    drop_spares();
    wait();  // only then does the pool return memory to the device
    status = cudaMallocFromPoolAsync(&memory, bytes, pool_, stream_);
  }
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    report_full(bytes);
  }
  check(status, "cudaMallocFromPoolAsync");
  return memory;
}

std::shared_ptr<void> Context::allocate(std::size_t bytes) {
  bytes = (std::max<std::size_t>(bytes, 1) + kGrain - 1) / kGrain * kGrain;
  void* memory = nullptr;
  const auto spare = spares_.lower_bound(bytes);
  if (spare != spares_.end() && spare->first <= bytes + bytes / 4) {
    memory = spare->second;
    bytes = spare->first;
    spare_bytes_ -= bytes;
    spares_.erase(spare);
  } else {
    memory = take(bytes);
  }
  return {memory, [context = shared_from_this(), bytes](void* block) { context->give_back(block, bytes); }};
}

void Context::give_back(void* memory, std::size_t bytes) {
  if (spare_bytes_ + bytes <= kKept) {
    spares_.emplace(bytes, memory);
    spare_bytes_ += bytes;
    return;
  }
  const Bind bind(*this);
  cudaFreeAsync(memory, stream_);
}

void Context::drop_spares() {
  for (const auto& [bytes, memory] : spares_) cudaFreeAsync(memory, stream_);
  spares_.clear();
  spare_bytes_ = 0;
}

void Context::fetch(const void* device, void* host, std::size_t bytes) {
  check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync");
  wait();
}

}  // namespace sparlow::cuda
