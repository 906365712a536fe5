// CBLAS and the few LAPACK routines that the CPU backend calls. SPARLOW_BLAS_PREFIX is the prefix some builds of
// OpenBLAS give to every symbol, so that two copies can live in one process.
#pragma once

#include <cblas.h>

#include <cstddef>

#ifndef SPARLOW_BLAS_PREFIX
#define SPARLOW_BLAS_PREFIX
#endif
#define SPARLOW_BLAS_JOIN2(a, b) a##b
#define SPARLOW_BLAS_JOIN(a, b) SPARLOW_BLAS_JOIN2(a, b)
#define SPARLOW_BLAS(name) SPARLOW_BLAS_JOIN(SPARLOW_BLAS_PREFIX, name)

extern "C" {
void SPARLOW_BLAS(spotrf_)(const char* uplo, const int* n, float* a, const int* lda, int* info, std::size_t);
void SPARLOW_BLAS(spotri_)(const char* uplo, const int* n, float* a, const int* lda, int* info, std::size_t);
void SPARLOW_BLAS(dpotrf_)(const char* uplo, const int* n, double* a, const int* lda, int* info, std::size_t);
void SPARLOW_BLAS(dgeqrf_)(const int* m, const int* n, double* a, const int* lda, double* tau, double* work,
                           const int* lwork, int* info);
void SPARLOW_BLAS(dorgqr_)(const int* m, const int* n, const int* k, double* a, const int* lda, const double* tau,
                           double* work, const int* lwork, int* info);
void SPARLOW_BLAS(dsyevd_)(const char* jobz, const char* uplo, const int* n, double* a, const int* lda, double* w,
                           double* work, const int* lwork, int* iwork, const int* liwork, int* info, std::size_t,
                           std::size_t);
}
