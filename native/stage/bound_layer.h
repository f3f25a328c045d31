// A layer's weights as Python passes them, and as the stage reads them.
#pragma once

#include <nanobind/nanobind.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "stage.h"

namespace shoal {

// (product, B, first rank, scale)
using BoundAdapterPart = std::tuple<std::string, nanobind::object, int, float>;
// A of products that read the same rows, and the parts of each product
using BoundAdapterGroup = std::tuple<nanobind::object, std::vector<BoundAdapterPart>>;

// A layer's weights and the Python objects that own them.
struct BoundStageLayer {
  nanobind::dict matrices, vectors;
  nanobind::object attention;
  std::vector<ExpertTurns> experts;  // that it holds
  nanobind::object recurrent;
  std::vector<std::string> inputs;  // matrices that compute a recurrence's inputs; empty: there is none
  std::string output;               // name of the matrix after attention or recurrence
  nanobind::object cross;                 // attention over an encoder's output
  bool has_mixer, has_mlp;
  std::vector<std::vector<BoundAdapterGroup>> adapters;  // of each adapter, by its number
  std::optional<std::tuple<int, float>> shared_norm;  // of a recurrence: channels and epsilon
  std::optional<std::tuple<float, int>> gate_cut;  // standard deviations and columns of all shards
};

// A layer as the stage reads it; `layer` must outlive it. Throws std::invalid_argument if sizes do not fit the stage.
StageLayer view_of(const BoundStageLayer& layer, const StageShape& shape);

// The weights outside a stage's layers, by the names of `WeightSource`.
CarriedEnds ends_of(const BoundStageLayer& weights, const StageShape& shape);

}  // namespace shoal
