// OpenBLAS under the prefix that this build's copy gives its symbols: the dense baseline on a CPU.
#pragma once

#include <cblas.h>

#include <cstddef>

#ifndef SPARLOW_BLAS_PREFIX
#define SPARLOW_BLAS_PREFIX
#endif
#define SPARLOW_BENCH_JOIN2(a, b) a##b
#define SPARLOW_BENCH_JOIN(a, b) SPARLOW_BENCH_JOIN2(a, b)
#define SPARLOW_BENCH_BLAS(name) SPARLOW_BENCH_JOIN(SPARLOW_BLAS_PREFIX, name)

extern "C" {
void SPARLOW_BENCH_BLAS(spotrf_)(const char* uplo, const int* n, float* a, const int* lda, int* info, std::size_t);
void SPARLOW_BENCH_BLAS(spotri_)(const char* uplo, const int* n, float* a, const int* lda, int* info, std::size_t);
void SPARLOW_BENCH_BLAS(sgeqrf_)(const int* m, const int* n, float* a, const int* lda, float* tau, float* work,
                                 const int* lwork, int* info);
void SPARLOW_BENCH_BLAS(sorgqr_)(const int* m, const int* n, const int* k, float* a, const int* lda, const float* tau,
                                 float* work, const int* lwork, int* info);
}
