// The bytes of a Python object with the buffer protocol, while this object lives. Acquired and released with the GIL.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>

namespace shoal {

class BufferView {
 public:
  BufferView(nanobind::handle object, int flags) {
    if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) throw nanobind::python_error();
  }
  ~BufferView() { PyBuffer_Release(&view_); }
  BufferView(const BufferView&) = delete;
  BufferView& operator=(const BufferView&) = delete;
  char* data() const { return static_cast<char*>(view_.buf); }
  std::size_t size() const { return static_cast<std::size_t>(view_.len); }
  const char* format() const { return view_.format != nullptr ? view_.format : "B"; }

 private:
  Py_buffer view_{};
};

}  // namespace shoal
