// What the products of a layer's halves read.
#pragma once

#include <algorithm>
#include <iterator>

#include "stage.h"

namespace shoal {

// Whether the layer, or the shard of it, has a plain MLP.
inline bool has_columns(const StageLayer& layer) { return layer.mlp.down != nullptr; }

// Whether products before attention read codes of the hidden state's rows.
inline bool qkv_needs_codes(const StageLayer& layer) {
  if (layer.latent != nullptr) return LatentRunner::needs_codes(*layer.latent);
  const Matrix* all[] = {layer.q, layer.k, layer.v, layer.q_gate};
  return std::any_of(std::begin(all), std::end(all), [](const Matrix* one) { return one != nullptr && !is_dense(*one); });
}

// Whether the MLP or the experts read codes of the hidden state's rows.
inline bool mlp_needs_codes(const StageLayer& layer) {
  return layer.has_plain_mlp() ? needs_codes(layer.mlp) : needs_codes(*layer.experts);
}

}  // namespace shoal
