// Packing and unpacking by address. Shapes are checked by sparlow.native, which knows the tensors.
#include "bindings.hpp"
#include "sparlow/format.hpp"
#include "sparlow/linear.hpp"

namespace sparlow::bindings {
namespace {

using Address = std::uintptr_t;
using Release = py::call_guard<py::gil_scoped_release>;

const void* in(Address address) { return reinterpret_cast<const void*>(address); }
void* out(Address address) { return reinterpret_cast<void*>(address); }
const std::uint8_t* bytes_in(Address address) { return reinterpret_cast<const std::uint8_t*>(address); }
std::uint8_t* bytes_out(Address address) { return reinterpret_cast<std::uint8_t*>(address); }

LinearShape shape_of(Index d_out, Index d_in, Index rank, const std::string& dtype) {
  return {d_out, d_in, rank, parse_dtype(dtype)};
}

LinearTensors tensors_of(Address values, Address meta, Address u, Address v) {
  return {out(values), bytes_out(meta), out(u), out(v)};
}

void register_linear(py::module_& module) {
  py::class_<LinearShape>(module, "LinearShape")
      .def(py::init(&shape_of), py::arg("d_out"), py::arg("d_in"), py::arg("rank"), py::arg("dtype"));
  py::class_<LinearTensors>(module, "LinearTensors")
      .def(py::init(&tensors_of), py::arg("values"), py::arg("meta"), py::arg("u"), py::arg("v"));
  py::class_<LinearOps>(module, "LinearOps")
      .def("packed_bytes", &LinearOps::packed_bytes)
      .def(
          "pack",
          [](const LinearOps& ops, const LinearShape& shape, const LinearTensors& from, Address packed,
             LinearOps::Stream stream) { ops.pack(shape, from, out(packed), stream); },
          Release())
      .def(
          "unpack",
          [](const LinearOps& ops, const LinearShape& shape, Address packed, const LinearTensors& to,
             LinearOps::Stream stream) { ops.unpack(shape, in(packed), to, stream); },
          Release())
      .def(
          "forward",
          [](LinearOps& ops, const LinearShape& shape, Address packed, Address bias, Address x, Address y, Index tokens,
             LinearOps::Stream stream) { ops.forward(shape, in(packed), in(bias), in(x), out(y), tokens, stream); },
          Release())
      .def("kernel", [](const LinearOps& ops, const LinearShape& shape, Index tokens) {
        return std::string(ops.kernel(shape, tokens));
      });
  module.def(
      "nm24_forward",
      [](const LinearShape& shape, const LinearTensors& from, Address bias, Address x, Address y, Index tokens) {
        nm24_forward(shape, from, in(bias), in(x), out(y), tokens);
      },
      Release());
  module.def("make_linear_ops", &make_linear_ops, py::arg("device"), Release());
}

}  // namespace

void register_formats(py::module_& module) {
  register_linear(module);
  module.def(
      "nm24_pack",
      [](Address s, Index rows, Index cols, int element_size, Address values, Address meta) {
        nm24_pack(in(s), rows, cols, element_size, out(values), bytes_out(meta));
      },
      Release());
  module.def(
      "nm24_unpack",
      [](Address values, Address meta, Index rows, Index cols, int element_size, Address s) {
        nm24_unpack(in(values), bytes_in(meta), rows, cols, element_size, out(s));
      },
      Release());
  module.def(
      "bitmap_count",
      [](Address s, Index rows, Index cols, int element_size) { return bitmap_count(in(s), rows, cols, element_size); },
      Release());
  module.def(
      "bitmap_pack",
      [](Address s, Index rows, Index cols, int element_size, Index count, Address values, Address meta) {
        bitmap_pack(in(s), rows, cols, element_size, count, out(values), bytes_out(meta));
      },
      Release());
  module.def(
      "bitmap_unpack",
      [](Address values, Index count, Address meta, Index rows, Index cols, int element_size, Address s) {
        bitmap_unpack(in(values), count, bytes_in(meta), rows, cols, element_size, out(s));
      },
      Release());
  module.def(
      "signs_pack",
      [](Address positive, Index rows, Index cols, Address bits) {
        signs_pack(bytes_in(positive), rows, cols, bytes_out(bits));
      },
      Release());
  module.def(
      "signs_unpack",
      [](Address bits, Index rows, Index cols, Address positive) {
        signs_unpack(bytes_in(bits), rows, cols, bytes_out(positive));
      },
      Release());
}

}  // namespace sparlow::bindings
