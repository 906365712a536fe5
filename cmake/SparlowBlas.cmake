# Defines sparlow_blas (headers, library, symbol prefix) and SPARLOW_BLAS_LIBRARY (a file to ship in wheels, or empty).
add_library(sparlow_blas INTERFACE)
set(SPARLOW_BLAS_LIBRARY "")

if(SPARLOW_BLAS STREQUAL "auto" OR SPARLOW_BLAS STREQUAL "scipy-openblas32")
  find_package(Python3 COMPONENTS Interpreter QUIET)
  if(DEFINED Python_EXECUTABLE)
    set(_blas_python "${Python_EXECUTABLE}")
  else()
    set(_blas_python "${Python3_EXECUTABLE}")
  endif()
  execute_process(
    COMMAND "${_blas_python}" -c
            "import scipy_openblas32 as b; print(b.get_include_dir(), b.get_lib_dir(), b.get_library(), sep=';', end='')"
    OUTPUT_VARIABLE _blas RESULT_VARIABLE _blas_status ERROR_QUIET)
endif()

if(DEFINED _blas_status AND _blas_status EQUAL 0)
  list(GET _blas 0 _blas_include)
  list(GET _blas 1 _blas_lib)
  list(GET _blas 2 _blas_name)
  set(SPARLOW_BLAS_LIBRARY "${_blas_lib}/lib${_blas_name}.so")
  target_include_directories(sparlow_blas SYSTEM INTERFACE "${_blas_include}")
  target_link_libraries(sparlow_blas INTERFACE "${SPARLOW_BLAS_LIBRARY}")
  target_compile_definitions(sparlow_blas INTERFACE SPARLOW_BLAS_PREFIX=scipy_)
  message(STATUS "BLAS: scipy-openblas32 in ${_blas_lib}")
elseif(SPARLOW_BLAS STREQUAL "scipy-openblas32")
  message(FATAL_ERROR "SPARLOW_BLAS=scipy-openblas32, but ${_blas_python} cannot import scipy_openblas32: pip install it")
else()
  find_library(SPARLOW_OPENBLAS openblas)
  find_path(SPARLOW_CBLAS_INCLUDE cblas.h PATH_SUFFIXES openblas)
  if(NOT SPARLOW_OPENBLAS OR NOT SPARLOW_CBLAS_INCLUDE)
    message(FATAL_ERROR "No BLAS: install the Python package scipy-openblas32, or OpenBLAS with its headers "
                        "(Debian: libopenblas-dev)")
  endif()
  target_include_directories(sparlow_blas SYSTEM INTERFACE "${SPARLOW_CBLAS_INCLUDE}")
  target_link_libraries(sparlow_blas INTERFACE "${SPARLOW_OPENBLAS}")
  message(STATUS "BLAS: ${SPARLOW_OPENBLAS}")
endif()
