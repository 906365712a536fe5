// Packing and unpacking by address. Shapes are checked by sparlow.native, which knows the tensors.
#include <algorithm>
#include <array>
#include <vector>

#include "bindings.hpp"
#include "sparlow/checkpoint.hpp"
#include "sparlow/format.hpp"
#include "sparlow/layer.hpp"
#include "sparlow/linear.hpp"

namespace sparlow::bindings {
namespace {

using Address = std::uintptr_t;
using Release = py::call_guard<py::gil_scoped_release>;

const void* in(Address address) { return reinterpret_cast<const void*>(address); }
void* out(Address address) { return reinterpret_cast<void*>(address); }
const std::uint8_t* bytes_in(Address address) { return reinterpret_cast<const std::uint8_t*>(address); }
std::uint8_t* bytes_out(Address address) { return reinterpret_cast<std::uint8_t*>(address); }

Format format_of(const std::string& name) {
  for (const Format format : {Format::nm24, Format::bitmap, Format::dense})
    if (name == name_of(format)) return format;
  fail(ErrorCode::invalid_argument, "unknown format '", name, "'");
}

// rows: of the parts of a stack, whose sum d_out is; empty for a layer of its own.
LinearShape linear_shape(Index d_out, Index d_in, Index rank, const std::string& dtype, const std::string& format,
                         Index stored, Index sign_rank, const std::vector<Index>& rows) {
  LinearShape shape;
  shape.d_out = d_out, shape.d_in = d_in, shape.rank = rank, shape.dtype = parse_dtype(dtype);
  shape.format = format_of(format), shape.stored = stored, shape.sign_rank = sign_rank;
  require(rows.size() <= shape.rows.size(), "a stack has at most ", shape.rows.size(), " parts, got ", rows.size());
  shape.parts = rows.empty() ? 1 : static_cast<int>(rows.size());
  std::copy(rows.begin(), rows.end(), shape.rows.begin());
  return shape;
}

LinearTensors linear_tensors(const std::array<Address, 7>& addresses) {
  const auto [values, meta, u, v, sign_bits, sign_u, sign_v] = addresses;
  return {out(values), bytes_out(meta), out(u), out(v), bytes_out(sign_bits), out(sign_u), out(sign_v)};
}

void register_linear(py::module_& module) {
  py::class_<LinearShape>(module, "LinearShape")
      .def(py::init(&linear_shape), py::arg("d_out"), py::arg("d_in"), py::arg("rank"), py::arg("dtype"),
           py::arg("format") = "nm24", py::arg("stored") = 0, py::arg("sign_rank") = 0,
           py::arg("rows") = std::vector<Index>());
  py::class_<LinearTensors>(module, "LinearTensors").def(py::init(&linear_tensors), py::arg("addresses"));
  py::class_<LinearOps>(module, "LinearOps")
      .def("packed_bytes", &LinearOps::packed_bytes)
      .def(
          "pack",
          [](const LinearOps& ops, const LinearShape& shape, int part, Index rank, const LinearTensors& from,
             Address packed, LinearOps::Stream stream) { ops.pack(shape, part, rank, from, out(packed), stream); },
          Release())
      .def(
          "unpack",
          [](const LinearOps& ops, const LinearShape& shape, int part, Address packed, const LinearTensors& to,
             LinearOps::Stream stream) { ops.unpack(shape, part, in(packed), to, stream); },
          Release())
      .def(
          "forward",
          [](LinearOps& ops, const LinearShape& shape, int part, Address packed, Address bias, Address x, Address y,
             Index tokens, LinearOps::Stream stream) {
            ops.forward(shape, part, in(packed), in(bias), in(x), out(y), tokens, stream);
          },
          Release())
      .def(
          "expand",
          [](const LinearOps& ops, const LinearShape& shape, Address packed, Address w, LinearOps::Stream stream) {
            ops.expand(shape, in(packed), out(w), stream);
          },
          Release())
      .def("most_tokens", &LinearOps::most_tokens)
      .def("kernel", [](const LinearOps& ops, const LinearShape& shape, Index tokens) {
        return std::string(ops.kernel(shape, tokens));
      });
  module.def("make_linear_ops", &make_linear_ops, py::arg("device"), Release());
}

DType dtype_of(const std::string& name) {
  if (name == "bfloat16") return DType::bf16;
  if (name == "float16") return DType::f16;
  if (name == "float32") return DType::f32;
  fail(ErrorCode::invalid_argument, "a layer on the CPU is bfloat16, float16 or float32, not ", name);
}

// Addresses of the checkpoint's tensors; `checked`: their positions were looked at before.
std::unique_ptr<Layer> make_layer(const std::string& format, const std::string& dtype, Index d_out, Index d_in,
                                  Index rank, Index stored, const std::array<Address, 5>& tensors, bool checked) {
  const auto [values, meta, u, v, bias] = tensors;
  return make_cpu_layer({format_of(format), dtype_of(dtype), d_out, d_in, rank, stored},
                        {in(values), bytes_in(meta), in(u), in(v), in(bias)}, !checked);
}

void register_layers(py::module_& module) {
  py::class_<Layer>(module, "CpuLayer")
      .def(py::init(&make_layer), py::arg("format"), py::arg("dtype"), py::arg("d_out"), py::arg("d_in"),
           py::arg("rank"), py::arg("stored"), py::arg("tensors"), py::arg("checked"))
      .def("workspace_bytes", &Layer::workspace_bytes)
      .def(
          "forward",
          [](const Layer& layer, Address x, Address y, Index tokens, Address workspace, std::int64_t bytes) {
            layer.forward(in(x), out(y), tokens, out(workspace), bytes, 0);
          },
          Release());
}

void register_checkpoints(py::module_& module) {
  // Name -> (dtype, shape, first byte of the data, bytes) as the reader in C++ sees it.
  module.def("read_safetensors", [](const std::string& name, const py::bytes& content) {
    const std::string_view view = content;
    py::dict table;
    for (const StoredTensor& tensor : read_safetensors(name, view.data(), view.size()))
      table[py::str(tensor.name)] = py::make_tuple(tensor.dtype, py::tuple(py::cast(tensor.shape)),
                                                   static_cast<const char*>(tensor.data) - view.data(), tensor.bytes);
    return table;
  });
}

}  // namespace

void register_formats(py::module_& module) {
  register_linear(module);
  register_layers(module);
  register_checkpoints(module);
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
