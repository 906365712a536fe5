// The extension module sparlow._core: argument conversion, GIL release, exception translation. No mathematics.
#include "bindings.hpp"

namespace sparlow::bindings {
namespace {

void translate(const Error& error) {
  switch (error.code()) {
    case ErrorCode::invalid_argument:
    case ErrorCode::numerical: PyErr_SetString(PyExc_ValueError, error.what()); return;
    case ErrorCode::out_of_memory: PyErr_SetString(PyExc_MemoryError, error.what()); return;
    case ErrorCode::io: PyErr_SetString(PyExc_OSError, error.what()); return;
    case ErrorCode::cancelled: PyErr_SetString(PyExc_KeyboardInterrupt, error.what()); return;
    case ErrorCode::unavailable:
    case ErrorCode::internal: PyErr_SetString(PyExc_RuntimeError, error.what()); return;
  }
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  module.doc() = "Bindings of libsparlow. Tensors are passed as addresses; see sparlow.solve for the typed interface.";
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Error& error) {
      translate(error);
    }
  });
  module.attr("__version__") = SPARLOW_VERSION;
  register_backend(module);
  register_formats(module);
  register_solvers(module);
}

}  // namespace sparlow::bindings
