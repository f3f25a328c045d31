#include "../bindings.h"

#include <stdexcept>

#include "ring.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace shoal {
namespace {

// The contiguous memory of a Python object, held while it is in use.
class Buffer {
 public:
  Buffer(nb::handle object, bool is_writable) {
    if (PyObject_GetBuffer(object.ptr(), &view_, is_writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0)
      throw nb::python_error();
  }
  ~Buffer() { PyBuffer_Release(&view_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  char* data() const { return static_cast<char*>(view_.buf); }
  size_t size() const { return size_t(view_.len); }

 private:
  Py_buffer view_;
};

size_t write(RingEnd& self, nb::handle data, double timeout_s) {
  const Buffer buffer(data, false);
  nb::gil_scoped_release released;
  return self.write(buffer.data(), buffer.size(), timeout_s);
}

size_t read_into(RingEnd& self, nb::handle data, double timeout_s) {
  const Buffer buffer(data, true);
  nb::gil_scoped_release released;
  return self.read(buffer.data(), buffer.size(), timeout_s);
}

}  // namespace
}  // namespace shoal

void bind_ring(nb::module_& module) {
  using namespace shoal;
  nb::class_<RingEnd>(module, "RingEnd")
      .def(nb::init<int, bool>(), "fd"_a, "is_writer"_a)
      .def("write", &write, "data"_a, "timeout_s"_a)
      .def("read_into", &read_into, "data"_a, "timeout_s"_a)
      .def_prop_ro("peer_closed", &RingEnd::peer_closed)
      .def("close", &RingEnd::close);
}
