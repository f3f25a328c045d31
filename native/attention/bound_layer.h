// A layer's attention as Python holds it, together with the arrays that it points into.
#pragma once

#include <nanobind/ndarray.h>

#include <optional>

#include "layer.h"

namespace shoal {

struct BoundLayer {
  using Floats = nanobind::ndarray<float, nanobind::c_contig, nanobind::device::cpu>;
  using ConstFloats = nanobind::ndarray<const float, nanobind::c_contig, nanobind::device::cpu>;
  using Cache = nanobind::ndarray<nanobind::c_contig, nanobind::device::cpu>;  // fp32, fp16 or codes

  AttentionLayer layer;
  Cache keys, values;
  ConstFloats cos, sin;
  std::optional<ConstFloats> sinks, q_norm, k_norm, query_scales;
  std::optional<Floats> key_scales, value_scales;
};

}  // namespace shoal
