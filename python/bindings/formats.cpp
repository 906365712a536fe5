// Packing and unpacking by address. Shapes are checked by sparlow.native, which knows the tensors.
#include "bindings.hpp"
#include "sparlow/format.hpp"

namespace sparlow::bindings {
namespace {

using Address = std::uintptr_t;
using Release = py::call_guard<py::gil_scoped_release>;

const void* in(Address address) { return reinterpret_cast<const void*>(address); }
void* out(Address address) { return reinterpret_cast<void*>(address); }
const std::uint8_t* bytes_in(Address address) { return reinterpret_cast<const std::uint8_t*>(address); }
std::uint8_t* bytes_out(Address address) { return reinterpret_cast<std::uint8_t*>(address); }

}  // namespace

void register_formats(py::module_& module) {
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
