// A recurrent layer as Python holds it, together with the arrays that it points into.
#pragma once

#include <nanobind/ndarray.h>

#include <memory>
#include <vector>

#include "layer.h"

namespace shoal {

struct BoundRecurrentLayer {
  std::shared_ptr<const RecurrentLayer> layer;
  std::vector<nanobind::object> arrays;  // kept alive as long as the layer points into them
};

}  // namespace shoal
