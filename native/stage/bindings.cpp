#include "../bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../gemm/bound_matrix.h"
#include "../require.h"
#include "bound_layer.h"
#include "shard_sum.h"
#include "stage.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace shoal {
namespace {

using Floats = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Spans of [first, last) experts with the number of turns and the bits of their turns.
std::vector<ExpertTurns> turns_of(const std::vector<std::tuple<int, int, int, uint64_t>>& spans) {
  std::vector<ExpertTurns> own;
  for (const auto& [first, last, num_turns, turns] : spans) {
    require(0 <= first && first <= last && last <= kMaxExperts, "experts must be [first, last) of those that there are");
    for (int expert = first; expert < last; ++expert) own.push_back({expert, num_turns, turns});
  }
  return own;
}

struct BoundStage {
  Stage stage;
  std::vector<BoundStageLayer> layers;
};

Activation activation_of(const std::string& name) {
  if (name == "silu") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_tanh") return Activation::kGeluTanh;
  if (name == "clamped_swiglu") return Activation::kClampedSwiglu;
  if (name == "relu2") return Activation::kRelu2;
  throw std::invalid_argument("there is no activation named '" + name + "'");
}

void new_stage(BoundStage* self, std::shared_ptr<ThreadPool> pool, int hidden_size, int num_heads,
               int intermediate_size, int max_rows, float norm_epsilon, float residual_scale,
               const std::string& activation, bool exact_activations, bool joins_qk_norm, bool parts_qk_norm,
               bool centers_norms, bool is_parallel, std::vector<BoundStageLayer> layers,
               std::optional<ExpertsShape> experts, std::optional<LatentShape> latent,
               std::optional<StreamsShape> streams, std::optional<std::tuple<int, int>> inputs, int first_layer,
               const std::string& isa) {
  std::optional<InputsShape> inputs_shape;
  if (inputs) inputs_shape = InputsShape{std::get<0>(*inputs), std::get<1>(*inputs)};
  require(first_layer >= 0 && (!inputs || first_layer + int(layers.size()) <= inputs_shape->num_layers),
          "there must be an input for every layer");
  const StageShape shape{hidden_size, num_heads, intermediate_size, max_rows, norm_epsilon, residual_scale,
                         activation_of(activation), exact_activations, joins_qk_norm, parts_qk_norm, centers_norms,
                         is_parallel, experts, latent, streams, inputs_shape, first_layer};
  std::vector<StageLayer> views;
  for (const BoundStageLayer& layer : layers) views.push_back(view_of(layer, shape));
  Stage stage(std::move(pool), find_isa(isa), shape, std::move(views));
  new (self) BoundStage{std::move(stage), std::move(layers)};
}

void new_streams(StreamsShape* self, int num_streams, int active, bool scales_output, int rank) {
  new (self) StreamsShape{num_streams, active, scales_output, rank};
}

void new_experts(ExpertsShape* self, int num_experts, int num_chosen, int num_columns, int num_shared_columns,
                 bool has_sigmoid, bool is_normalized, float scale, int num_groups, int num_chosen_groups,
                 int num_group_scores, bool scales_input, float mixer_limit) {
  const RouterShape router{num_experts, num_chosen,  num_groups,    num_chosen_groups, num_group_scores,
                           has_sigmoid, is_normalized, scale,         mixer_limit};
  check_router(router);
  new (self) ExpertsShape{router, num_columns, num_shared_columns, scales_input};
}

void new_latent(LatentShape* self, int query_rank, int latent_dim, int plain_dim, int rotary_dim, int value_dim,
                float norm_epsilon, bool is_interleaved) {
  new (self) LatentShape{query_rank, latent_dim, plain_dim, rotary_dim, value_dim, norm_epsilon, is_interleaved};
}

void begin_stage(BoundStage& self, const BoundStageLayer& ends, const Floats& embedding,
                 const std::optional<Floats>& looked_up, const Floats& x) {
  const StageShape& shape = self.stage.shape();
  const size_t rows = x.shape(0);
  require(embedding.shape(0) == rows && int64_t(embedding.shape(1)) == shape.hidden_size,
          "embedding must be [rows, hidden size]");
  require(int64_t(x.shape(1)) == shape.carried_width(), "x must be [rows, carried width]");
  const int64_t inputs = shape.carried_width() - shape.streams_width();
  require(looked_up.has_value() == (inputs > 0) &&
              (!looked_up || (looked_up->shape(0) == rows && int64_t(looked_up->shape(1)) == inputs)),
          "what the table has must be [rows, layers x width]");
  const CarriedEnds carried = ends_of(ends, shape);
  nb::gil_scoped_release released;
  self.stage.begin(carried, embedding.data(), looked_up ? looked_up->data() : nullptr, int(rows), x.data());
}

void finish_stage(BoundStage& self, const BoundStageLayer& ends, const Floats& x) {
  require(int64_t(x.shape(1)) == self.stage.shape().carried_width(), "x must be [rows, carried width]");
  const CarriedEnds carried = ends_of(ends, self.stage.shape());
  nb::gil_scoped_release released;
  self.stage.finish(carried, int(x.shape(0)), x.data());
}

void run_stage(BoundStage& self, const Floats& x, StepMetadata& step, const nb::object& sum_over_shards,
               const nb::object& memories, const std::optional<Floats>& queries, const std::optional<Rows>& tails) {
  require(int64_t(x.shape(0)) == step.num_tokens() && int64_t(x.shape(1)) == self.stage.shape().carried_width(),
          "x must be [rows of the step, carried width]");
  SumOverShards sum;
  if (nb::isinstance<ShardSum>(sum_over_shards)) {
    ShardSum& shards = nb::cast<ShardSum&>(sum_over_shards);
    sum = [&shards](float* values, size_t count) { shards.add_up(values, count); };
  } else if (!sum_over_shards.is_none()) {
    sum = [&sum_over_shards](float* values, size_t count) {
      nb::gil_scoped_acquire held;
      sum_over_shards(nb::ndarray<nb::numpy, float>(values, 1, &count, nb::none()));
    };
  }
  StepMetadata* over_memories = memories.is_none() ? nullptr : &nb::cast<StepMetadata&>(memories);
  if (queries)
    require(int64_t(queries->size()) == self.stage.query_width() * step.num_tokens(),
            "queries must be [layers x rows of the step, q width]");
  std::vector<int32_t> counts;
  if (tails) counts.assign(tails->data(), tails->data() + tails->size());
  nb::gil_scoped_release released;
  self.stage.run(x.data(), step, over_memories, sum, queries ? queries->data() : nullptr, tails ? &counts : nullptr);
}

void remember(BoundStage& self, const Floats& memory, StepMetadata& step) {
  require(int64_t(memory.shape(0)) == step.num_tokens() && int64_t(memory.shape(1)) == self.stage.shape().hidden_size,
          "memory must be [rows of the step, hidden size]");
  nb::gil_scoped_release released;
  self.stage.remember(memory.data(), step);
}

void check_end(const BoundStage& self, const Floats& x, const Rows& rows, const Vector& norm,
               const std::optional<Vector>& norm_bias) {
  require(!norm_bias || norm_bias->shape(0) == norm.shape(0), "the norm's bias must have the hidden size");
  require(int64_t(norm.shape(0)) == self.stage.shape().hidden_size &&
              int64_t(x.shape(1)) == self.stage.shape().carried_width(),
          "x must have the carried width, and norm the hidden size");
  for (size_t i = 0; i < rows.shape(0); ++i)
    require(rows.data()[i] >= 0 && size_t(rows.data()[i]) < x.shape(0), "x has no such row");
}

void compute_hidden(BoundStage& self, const Floats& x, const Rows& rows, const Vector& norm,
                    const std::optional<Vector>& norm_bias, const Floats& out) {
  check_end(self, x, rows, norm, norm_bias);
  require(out.shape(0) == rows.shape(0) && int64_t(out.shape(1)) == self.stage.shape().hidden_size,
          "out must be [rows, hidden size]");
  nb::gil_scoped_release released;
  self.stage.hidden(x.data(), rows.data(), int(rows.shape(0)), norm.data(), norm_bias ? norm_bias->data() : nullptr,
                    out.data());
}

void compute_logits(BoundStage& self, const Floats& x, const Rows& rows, const Vector& norm,
                    const std::optional<Vector>& norm_bias, const BoundMatrix& matrix,
                    const std::optional<Vector>& bias, float scale, float softcap, const Floats& out) {
  check_end(self, x, rows, norm, norm_bias);
  require(!bias || int64_t(bias->shape(0)) == matrix.matrix.num_outputs, "the bias must be [vocabulary]");
  require(out.shape(0) == rows.shape(0) && int64_t(out.shape(1)) == matrix.matrix.num_outputs,
          "out must be [rows, vocabulary]");
  const StageHead head{norm.data(), norm_bias ? norm_bias->data() : nullptr, &matrix.matrix,
                       bias ? bias->data() : nullptr, scale, softcap};
  nb::gil_scoped_release released;
  self.stage.logits(x.data(), rows.data(), int(rows.shape(0)), head, out.data());
}

}  // namespace
}  // namespace shoal

void bind_stage(nb::module_& module) {
  using namespace shoal;
  nb::class_<BoundStageLayer>(module, "StageLayer")
      .def(
          "__init__",
          [](BoundStageLayer* self, nb::dict matrices, nb::dict vectors, nb::object attention,
             const std::vector<std::tuple<int, int, int, uint64_t>>& experts, nb::object recurrent,
             std::vector<std::string> inputs, std::string output, nb::object cross, bool has_mixer, bool has_mlp,
             std::vector<std::vector<BoundAdapterGroup>> adapters,
             std::optional<std::tuple<int, float>> shared_norm, std::optional<std::tuple<float, int>> gate_cut) {
            new (self) BoundStageLayer{std::move(matrices), std::move(vectors),   std::move(attention),
                                       turns_of(experts),   std::move(recurrent), std::move(inputs),
                                       std::move(output),   std::move(cross),     has_mixer, has_mlp,
                                       std::move(adapters), shared_norm,          gate_cut};
          },
          "matrices"_a, "vectors"_a, "attention"_a.none(), "experts"_a = nb::make_tuple(),
          "recurrent"_a.none() = nb::none(), "inputs"_a = nb::make_tuple(), "output"_a = "o",
          "cross"_a.none() = nb::none(), "has_mixer"_a = true, "has_mlp"_a = true,
          "adapters"_a = nb::make_tuple(), "shared_norm"_a.none() = nb::none(), "gate_cut"_a.none() = nb::none());
  nb::class_<ExpertsShape>(module, "ExpertsShape")
      .def("__init__", &new_experts, nb::kw_only(), "num_experts"_a, "num_chosen"_a, "num_columns"_a,
           "num_shared_columns"_a, "has_sigmoid"_a, "is_normalized"_a, "scale"_a, "num_groups"_a, "num_chosen_groups"_a,
           "num_group_scores"_a, "scales_input"_a, "mixer_limit"_a);
  nb::class_<ShardSum>(module, "ShardSum");
  nb::class_<LatentShape>(module, "LatentShape")
      .def("__init__", &new_latent, nb::kw_only(), "query_rank"_a, "latent_dim"_a, "plain_dim"_a, "rotary_dim"_a,
           "value_dim"_a, "norm_epsilon"_a, "is_interleaved"_a);
  nb::class_<StreamsShape>(module, "StreamsShape")
      .def("__init__", &new_streams, nb::kw_only(), "num_streams"_a, "active"_a, "scales_output"_a, "rank"_a);
  nb::class_<BoundStage>(module, "Stage")
      .def("__init__", &new_stage, "pool"_a, "hidden_size"_a, "num_heads"_a,
           "intermediate_size"_a, "max_rows"_a, "norm_epsilon"_a, "residual_scale"_a, "activation"_a, "exact_activations"_a,
           "joins_qk_norm"_a, "parts_qk_norm"_a, "centers_norms"_a, "is_parallel"_a, "layers"_a, "experts"_a.none() = nb::none(),
           "latent"_a.none() = nb::none(), "streams"_a.none() = nb::none(), "inputs"_a.none() = nb::none(),
           "first_layer"_a = 0, "isa"_a = "")
      .def("begin", &begin_stage, "ends"_a, "embedding"_a.noconvert(), "looked_up"_a.noconvert().none(),
           "x"_a.noconvert())
      .def("finish", &finish_stage, "ends"_a, "x"_a.noconvert())
      .def("expert_rows", [](const BoundStage& self, int layer) { return self.stage.expert_rows(layer); }, "layer"_a)
      .def("run", &run_stage, "x"_a.noconvert(), "step"_a, "sum_over_shards"_a.none(),
           "memories"_a.none() = nb::none(), "queries"_a.noconvert().none() = nb::none(),
           "tails"_a.noconvert().none() = nb::none())
      .def("remember", &remember, "memory"_a.noconvert(), "step"_a)
      .def("hidden", &compute_hidden, "x"_a.noconvert(), "rows"_a.noconvert(), "norm"_a.noconvert(),
           "norm_bias"_a.noconvert().none(), "out"_a.noconvert())
      .def("logits", &compute_logits, "x"_a.noconvert(), "rows"_a.noconvert(), "norm"_a.noconvert(),
           "norm_bias"_a.noconvert().none(), "head"_a, "bias"_a.noconvert().none(), "scale"_a, "softcap"_a,
           "out"_a.noconvert());
}
