#include "bindings.hpp"
#include "sparlow/decorators.hpp"

namespace sparlow::bindings {

DType parse_dtype(const std::string& name) {
  if (name == "float32") return DType::f32;
  if (name == "bfloat16") return DType::bf16;
  if (name == "float16") return DType::f16;
  fail(ErrorCode::invalid_argument, "dtype ", name, " is not float32, bfloat16 or float16");
}

namespace {

using Release = py::call_guard<py::gil_scoped_release>;

void gram_update(Backend& backend, const PyView& x, const std::string& dtype, const PyView& gram) {
  const TypedView typed{reinterpret_cast<const void*>(x.address), x.rows, x.cols, x.stride, parse_dtype(dtype)};
  backend.gram_update(typed, gram.view());
}

py::dict describe(const OpCount& count) {
  py::dict out;
  out["calls"] = count.calls;
  out["seconds"] = count.seconds;
  out["flops"] = count.flops;
  out["bytes"] = count.bytes;
  return out;
}

Precision parse_precision(const std::string& name) {
  if (name == "f32") return Precision::f32;
  if (name == "tf32") return Precision::tf32;
  if (name == "f16") return Precision::f16;
  fail(ErrorCode::invalid_argument, "precision '", name, "' is not f32, tf32 or f16");
}

// Keeps the wrapped backend alive beside the decorator.
struct PyTrace {
  std::shared_ptr<Backend> inner;
  Trace trace;
};

}  // namespace

void register_backend(py::module_& module) {
  py::class_<PyView>(module, "View")
      .def(py::init<std::uintptr_t, Index, Index, Index>(), py::arg("address"), py::arg("rows"), py::arg("cols"),
           py::arg("stride"));
  py::class_<Pattern>(module, "Pattern")
      .def(py::init(&Pattern::parse), py::arg("text"))
      .def_property_readonly("kind",
                             [](const Pattern& p) {
                               constexpr const char* names[] = {"dense", "nm", "row", "matrix"};
                               return names[static_cast<int>(p.kind)];
                             })
      .def_readonly("n", &Pattern::n)
      .def_readonly("m", &Pattern::m)
      .def_readonly("density", &Pattern::density)
      .def("kept", &Pattern::kept, py::arg("rows"), py::arg("cols"))
      .def("check_shape", &Pattern::check_shape, py::arg("rows"), py::arg("cols"), py::arg("name"))
      .def("__str__", &Pattern::str);
  py::class_<Backend, std::shared_ptr<Backend>>(module, "Backend")
      .def_property_readonly("name", [](const Backend& b) { return std::string(b.name()); })
      .def("wait", &Backend::wait, Release())
      .def("set_precision", [](Backend& b, const std::string& name) { b.set_precision(parse_precision(name)); })
      .def("gram_update", &gram_update, py::arg("x"), py::arg("dtype"), py::arg("gram"), Release())
      .def(
          "symmetrise", [](Backend& b, const PyView& gram) { b.symmetrise(gram.view()); }, Release())
      .def("all_finite", [](Backend& b, const PyView& x) { return b.fetch_all_finite(x.view()); }, Release());
  py::class_<PyTrace>(module, "Trace")
      .def(py::init([](std::shared_ptr<Backend> inner) {
        Trace trace = make_trace(*inner);
        return PyTrace{std::move(inner), std::move(trace)};
      }))
      .def_property_readonly(
          "backend", [](PyTrace& t) -> Backend& { return *t.trace.backend; },
          py::return_value_policy::reference_internal)
      .def_property_readonly("counts", [](const PyTrace& t) {
        py::dict out;
        for (const auto& [op, count] : *t.trace.counts) out[py::str(op)] = describe(count);
        return out;
      });
  module.def(
      "make_backend",
      [](const std::string& device, std::uintptr_t stream) {
        return std::shared_ptr<Backend>(make_backend(device, stream));
      },
      py::arg("device"), py::arg("stream") = 0, Release());
  module.def("num_threads", &num_threads);
  module.def("set_num_threads", &set_num_threads, py::arg("count"));
}

}  // namespace sparlow::bindings
