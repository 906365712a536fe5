# Defines sparlow_cublas and sparlow_cusolver: headers and libraries of the CUDA toolkit or of NVIDIA's Python packages.
# The packages hold only files with a version in their name (libcublas.so.13), which find_library and -l do not see.
set(SPARLOW_NVIDIA_ROOT "" CACHE PATH "Folder nvidia/cu13 of NVIDIA's Python packages; empty: ask Python, then the toolkit")

set(_nvidia_roots "${SPARLOW_NVIDIA_ROOT}")
if(NOT SPARLOW_NVIDIA_ROOT)
  find_package(Python3 COMPONENTS Interpreter QUIET)
  if(DEFINED Python_EXECUTABLE)
    set(_cuda_python "${Python_EXECUTABLE}")
  else()
    set(_cuda_python "${Python3_EXECUTABLE}")
  endif()
  execute_process(
    COMMAND "${_cuda_python}" -c "import nvidia; print(';'.join(p + '/cu13' for p in nvidia.__path__), end='')"
    OUTPUT_VARIABLE _nvidia_roots ERROR_QUIET)
endif()
list(APPEND _nvidia_roots "${CUDAToolkit_LIBRARY_ROOT}" "${CUDAToolkit_TARGET_DIR}")

function(sparlow_cuda_library name header)
  find_path(SPARLOW_${name}_INCLUDE ${header} HINTS ${_nvidia_roots} ${CUDAToolkit_INCLUDE_DIRS} PATH_SUFFIXES include
            NO_DEFAULT_PATH)
  foreach(root IN LISTS _nvidia_roots CUDAToolkit_LIBRARY_DIR)
    if(root)
      file(GLOB _found "${root}/lib/lib${name}.so*" "${root}/lib64/lib${name}.so*" "${root}/lib${name}.so*")
      if(_found)
        list(GET _found 0 _library)
        break()
      endif()
    endif()
  endforeach()
  if(NOT SPARLOW_${name}_INCLUDE OR NOT _library)
    message(FATAL_ERROR "lib${name} of CUDA 13 not found: install the Python package nvidia-${name} (and set "
                        "SPARLOW_NVIDIA_ROOT to its folder nvidia/cu13), or the CUDA toolkit")
  endif()
  add_library(sparlow_${name} SHARED IMPORTED GLOBAL)
  set_target_properties(sparlow_${name} PROPERTIES IMPORTED_LOCATION "${_library}" INTERFACE_INCLUDE_DIRECTORIES
                                                   "${SPARLOW_${name}_INCLUDE}")
  message(STATUS "CUDA: ${_library}")
endfunction()

sparlow_cuda_library(cublas cublas_v2.h)
sparlow_cuda_library(cusolver cusolverDn.h)
