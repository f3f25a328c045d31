// A file's pages as an array. Python's own mmap keeps a descriptor open as long as its mapping lives, which would be
// too many for a model with a file for every layer.

#include "../bindings.h"

#include <nanobind/ndarray.h>

#include <cerrno>

#include <sys/mman.h>

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace {

struct Mapping {
  void* data;
  size_t num_bytes;
  ~Mapping() { munmap(data, num_bytes); }
};

nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>> map_file(int fd, size_t num_bytes) {
  void* data = mmap(nullptr, num_bytes, PROT_READ, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) {
    PyErr_SetFromErrno(PyExc_OSError);
    throw nb::python_error();
  }
  nb::capsule owner(new Mapping{data, num_bytes}, [](void* mapping) noexcept { delete static_cast<Mapping*>(mapping); });
  return nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>(data, {num_bytes}, owner);
}

}  // namespace

void bind_mapped_file(nb::module_& module) { module.def("map_file", &map_file, "fd"_a, "num_bytes"_a); }
