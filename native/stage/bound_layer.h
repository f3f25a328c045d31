// A layer's weights as Python hands them over, and as the stage reads them.
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
// A of products that meet the same rows, and what belongs to each.
using BoundAdapterGroup = std::tuple<nanobind::object, std::vector<BoundAdapterPart>>;

// A layer's weights and the Python objects that own them.
struct BoundStageLayer {
  nanobind::dict matrices, vectors;
  nanobind::object attention;
  std::vector<ExpertTurns> experts;  // that it holds
  nanobind::object recurrent;
  std::vector<std::string> inputs;  // names of the matrices that a recurrence is computed from; empty: it has none
  std::string output;               // of the one behind attention or recurrence
  nanobind::object cross;                 // attention over what an encoder gave
  bool has_mixer, has_mlp;
  std::vector<std::vector<BoundAdapterGroup>> adapters;  // of each, by its number
  std::optional<std::tuple<int, float>> shared_norm;  // of a recurrence: channels and epsilon
  std::optional<std::tuple<float, int>> gate_cut;  // standard deviations and columns of all shards
};

// A layer as the stage reads it; `layer` must outlive it. Throws std::invalid_argument where sizes do not fit the stage.
StageLayer view_of(const BoundStageLayer& layer, const StageShape& shape);

// The weights beside a stage's layers, by the names of `WeightSource`.
CarriedEnds ends_of(const BoundStageLayer& weights, const StageShape& shape);

}  // namespace shoal
