// A packed matrix as Python holds it, together with its memory.
#pragma once

#include <nanobind/ndarray.h>

#include "matrix.h"

namespace shoal {

using PackedBytes = nanobind::ndarray<const uint8_t, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

struct BoundMatrix {
  Matrix matrix;
  PackedBytes bytes;  // kept alive as long as the matrix points into it
};

}  // namespace shoal
