#pragma once

#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "sparlow/backend.hpp"
#include "sparlow/error.hpp"

namespace sparlow::bindings {

namespace py = pybind11;

// A matrix as Python hands it over: address of the first element, rows, columns, elements between rows.
struct PyView {
  std::uintptr_t address;
  Index rows, cols, stride;

  View view() const { return {reinterpret_cast<float*>(address), rows, cols, stride}; }
  MaskView mask() const { return {reinterpret_cast<std::uint8_t*>(address), rows, cols, stride}; }
};

// "float32", "bfloat16" or "float16".
DType parse_dtype(const std::string& name);

void register_backend(py::module_& module);
void register_formats(py::module_& module);
void register_solvers(py::module_& module);

}  // namespace sparlow::bindings
