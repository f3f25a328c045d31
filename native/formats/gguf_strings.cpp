// Arrays of strings in a GGUF header: each a length of eight bytes, little-endian, then so many bytes of UTF-8.
// Vocabularies and their merges have hundreds of thousands of them. See src/shoal/model/formats/gguf/strings.py.

#include <cstdint>

#include "../bindings.h"
#include "../comm/buffer_view.h"

namespace nb = nanobind;
using namespace nanobind::literals;
using shoal::BufferView;

namespace {

constexpr size_t kLengthBytes = 8;

// Steps from string to string, never beyond the end of the data.
class Strings {
 public:
  Strings(const BufferView& view, size_t position) : data_(view.data()), size_(view.size()), position_(position) {}

  // The first byte of the next string; `length` is its number of bytes.
  const char* next(size_t& length) {
    if (position_ > size_ || size_ - position_ < kLengthBytes) fail();
    uint64_t bytes = 0;
    for (size_t i = kLengthBytes; i-- > 0;) bytes = bytes << 8 | static_cast<uint8_t>(data_[position_ + i]);
    position_ += kLengthBytes;
    if (bytes > size_ - position_) fail();
    length = static_cast<size_t>(bytes);
    position_ += length;
    return data_ + position_ - length;
  }

  size_t position() const { return position_; }

 private:
  [[noreturn]] static void fail() { throw nb::value_error("a string that is longer than the file"); }

  const char* data_;
  size_t size_, position_;
};

size_t skip_strings(nb::handle data, size_t position, size_t count) {
  const BufferView view(data, PyBUF_SIMPLE);
  Strings strings(view, position);
  size_t length = 0;
  for (size_t i = 0; i < count; ++i) strings.next(length);
  return strings.position();
}

nb::list read_strings(nb::handle data, size_t position, size_t count) {
  const BufferView view(data, PyBUF_SIMPLE);
  Strings strings(view, position);
  nb::list found;
  size_t length = 0;
  for (size_t i = 0; i < count; ++i) {
    const char* bytes = strings.next(length);
    PyObject* text = PyUnicode_DecodeUTF8(bytes, static_cast<Py_ssize_t>(length), "replace");
    if (text == nullptr) throw nb::python_error();
    found.append(nb::steal(text));
  }
  return found;
}

}  // namespace

void bind_formats(nb::module_& module) {
  module.def("skip_strings", &skip_strings, "data"_a, "position"_a, "count"_a);
  module.def("read_strings", &read_strings, "data"_a, "position"_a, "count"_a);
}
