// Stands in for libcuda.so.1 of a driver that knows CUDA 12.4 only.
int cuDriverGetVersion(int* version) {
  *version = 12040;
  return 0;
}
