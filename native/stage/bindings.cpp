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

#include "../attention/bound_layer.h"
#include "../gemm/bound_matrix.h"
#include "../recurrence/bound_layer.h"
#include "shard_sum.h"
#include "stage.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace shoal {
namespace {

using Floats = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

// (product, B, first rank, scale)
using BoundAdapterPart = std::tuple<std::string, nb::object, int, float>;
// A of products that meet the same rows, and what belongs to each.
using BoundAdapterGroup = std::tuple<nb::object, std::vector<BoundAdapterPart>>;

// A layer's weights and the Python objects that own them.
struct BoundStageLayer {
  nb::dict matrices, vectors;
  nb::object attention;
  std::vector<ExpertTurns> experts;  // that it holds
  nb::object recurrent;
  std::vector<std::string> inputs;  // names of the matrices that a recurrence is computed from; empty: it has none
  std::string output;               // of the one behind attention or recurrence
  nb::object cross;                 // attention over what an encoder gave
  bool has_mixer, has_mlp;
  std::vector<std::vector<BoundAdapterGroup>> adapters;  // of each, by its number
  std::optional<std::tuple<int, float>> shared_norm;  // of a recurrence: channels and epsilon
  std::optional<std::tuple<float, int>> gate_cut;  // standard deviations and columns of all shards
};

// Spans of [first, last) experts with the number of turns and the bits of their turns.
std::vector<ExpertTurns> turns_of(const std::vector<std::tuple<int, int, int, uint64_t>>& spans) {
  std::vector<ExpertTurns> own;
  for (const auto& [first, last, num_turns, turns] : spans) {
    require(0 <= first && first <= last && last <= kMaxExperts, "experts must be [first, last) of those that there are");
    for (int expert = first; expert < last; ++expert) own.push_back({expert, num_turns, turns});
  }
  return own;
}

const Matrix* matrix_of(const BoundStageLayer& layer, const std::string& name) {
  const char* key = name.c_str();
  return layer.matrices.contains(key) ? &nb::cast<const BoundMatrix&>(layer.matrices[key]).matrix : nullptr;
}

const float* vector_of(const BoundStageLayer& layer, const std::string& name, int size) {
  const char* key = name.c_str();
  if (!layer.vectors.contains(key)) return nullptr;
  const Vector vector = nb::cast<Vector>(layer.vectors[key]);
  require(int64_t(vector.shape(0)) == size, name + " must have " + std::to_string(size) + " values");
  return vector.data();
}

// Of one layer, with names that begin with `prefix`.
Mlp mlp_of(const BoundStageLayer& layer, const std::string& prefix, int hidden) {
  const auto matrix = [&](const char* name) { return matrix_of(layer, prefix + name); };
  const Matrix* down = matrix("down");
  const int columns = down == nullptr ? 0 : down->num_inputs;
  const auto vector = [&](const char* name, int size) { return vector_of(layer, prefix + name, size); };
  return {matrix("gate"), matrix("up"), down,
          vector("gate_bias", columns), vector("up_bias", columns), vector("down_bias", hidden)};
}

std::shared_ptr<const ExpertLayer> experts_of(const BoundStageLayer& layer, const ExpertsShape& shape, int hidden) {
  const int count = shape.router.num_experts;
  ExpertLayer experts{matrix_of(layer, "router"),
                      vector_of(layer, "router_bias", count),
                      vector_of(layer, "selection_bias", count),
                      vector_of(layer, "expert_scales", count),
                      {},
                      {},
                      shape.num_shared_columns > 0 ? mlp_of(layer, "shared_", hidden) : Mlp{},
                      matrix_of(layer, "shared_router")};
  for (const ExpertTurns& own : layer.experts) {
    experts.experts.push_back(mlp_of(layer, "experts." + std::to_string(own.expert) + ".", hidden));
    experts.own.push_back(own);
  }
  return std::make_shared<const ExpertLayer>(std::move(experts));
}

std::shared_ptr<const RecurrentHalf> recurrent_of(const BoundStageLayer& layer) {
  if (layer.inputs.empty()) return nullptr;
  RecurrentHalf half{layer.recurrent.is_none() ? nullptr : nb::cast<const BoundRecurrentLayer&>(layer.recurrent).layer.get(),
                     {}, 0, 0.0f};
  if (layer.shared_norm) std::tie(half.norm_channels, half.norm_epsilon) = *layer.shared_norm;
  for (const std::string& name : layer.inputs) {
    const Matrix* matrix = matrix_of(layer, name);
    const float* bias = matrix == nullptr ? nullptr : vector_of(layer, name + "_bias", matrix->num_outputs);
    half.inputs.push_back({matrix, bias});
  }
  return std::make_shared<const RecurrentHalf>(std::move(half));
}

std::shared_ptr<const LatentLayer> latent_of(const BoundStageLayer& layer, const LatentShape& shape, int num_heads) {
  LatentLayer latent{matrix_of(layer, "q_down"), vector_of(layer, "q_down_norm", shape.query_rank),
                     matrix_of(layer, "q"),      matrix_of(layer, "latent_down"),
                     vector_of(layer, "latent_norm", shape.latent_dim), {}, {}};
  for (int head = 0; head < num_heads; ++head) {
    const std::string prefix = "heads." + std::to_string(head) + ".";
    latent.k_up.push_back(matrix_of(layer, prefix + "k_up"));
    latent.v_up.push_back(matrix_of(layer, prefix + "v_up"));
  }
  return std::make_shared<const LatentLayer>(std::move(latent));
}

std::shared_ptr<const CrossHalf> cross_of(const BoundStageLayer& layer, int hidden) {
  if (layer.cross.is_none()) return nullptr;
  const AttentionLayer& attention = nb::cast<const BoundLayer&>(layer.cross).layer;
  const int q_width = attention.out_width(), kv_width = attention.kv_width();
  const auto matrix = [&](const char* name) { return matrix_of(layer, name); };
  const auto vector = [&](const char* name, int size) { return vector_of(layer, name, size); };
  return std::make_shared<const CrossHalf>(CrossHalf{
      &attention,
      matrix("cross_q"), matrix("cross_k"), matrix("cross_v"), matrix("cross_o"),
      vector("cross_norm", hidden), vector("cross_norm_bias", hidden),
      vector("cross_q_bias", q_width), vector("cross_k_bias", kv_width), vector("cross_v_bias", kv_width),
      vector("cross_o_bias", hidden)});
}

// Where an adapter's part belongs.
std::pair<AdapterPlace, int> place_of(const std::string& product, bool is_gated) {
  static const char* const kInputs[] = {"q", "k", "v", "q_gate"};
  for (int i = 0; i < kAdapterParts; ++i)
    if (product == kInputs[i]) return {AdapterPlace::kAttentionIn, i};
  if (product == "o") return {AdapterPlace::kAttentionOut, 0};
  if (product == "gate" && is_gated) return {AdapterPlace::kMlpIn, 0};
  if (product == "up") return {AdapterPlace::kMlpIn, 1};
  if (product == "down") return {AdapterPlace::kMlpOut, 0};
  throw std::invalid_argument("no adapter can be added to '" + product + "'");
}

LayerAdapters adapters_of(const BoundStageLayer& layer) {
  LayerAdapters adapters(layer.adapters.size());
  const bool is_gated = layer.matrices.contains("gate");
  for (size_t i = 0; i < layer.adapters.size(); ++i)
    for (const auto& [a, parts] : layer.adapters[i])
      for (const auto& [product, b, first, scale] : parts) {
        const auto [place, part] = place_of(product, is_gated);
        AdapterGroup& group = adapters[i].groups[int(place)];
        const Matrix* own = &nb::cast<const BoundMatrix&>(a).matrix;
        require(group.a == nullptr || group.a == own, "products that meet the same rows must share A");
        group.a = own;
        group.parts[part] = {&nb::cast<const BoundMatrix&>(b).matrix, first, scale};
      }
  return adapters;
}

std::shared_ptr<const StreamsLayer> streams_of(const BoundStageLayer& layer, const StreamsShape& shape, int hidden) {
  const int count = shape.num_streams;
  return std::make_shared<const StreamsLayer>(
      StreamsLayer{vector_of(layer, "stream_router", count * hidden), vector_of(layer, "stream_router_norm", hidden),
                   vector_of(layer, "stream_prediction", count * count * count),
                   vector_of(layer, "stream_correction", count * count), vector_of(layer, "stream_scale", hidden),
                   matrix_of(layer, "residual_down"), matrix_of(layer, "residual_up"),
                   vector_of(layer, "residual_norm", hidden)});
}

std::optional<ExpertNorms> expert_norms_of(const BoundStageLayer& layer, int hidden) {
  if (!layer.vectors.contains("router_norm")) return std::nullopt;
  return ExpertNorms{vector_of(layer, "router_norm", hidden), vector_of(layer, "experts_norm", hidden),
                     vector_of(layer, "post_shared_norm", hidden), vector_of(layer, "post_experts_norm", hidden)};
}

std::optional<GateCut> gate_cut_of(const BoundStageLayer& layer) {
  if (!layer.gate_cut) return std::nullopt;
  return GateCut{std::get<0>(*layer.gate_cut), std::get<1>(*layer.gate_cut)};
}

StageLayer view_of(const BoundStageLayer& layer, const StageShape& shape) {
  const int hidden = shape.hidden_size;
  const AttentionLayer* attention =
      layer.attention.is_none() ? nullptr : &nb::cast<const BoundLayer&>(layer.attention).layer;
  const int dim = attention == nullptr ? 0 : attention->view().head_dim;
  const int q_width = attention == nullptr ? 0 : attention->out_width();
  const int kv_width = attention == nullptr ? 0 : attention->kv_width();
  const bool has_wide_norms = shape.joins_qk_norm || shape.parts_qk_norm;
  const auto matrix = [&](const char* name) { return matrix_of(layer, name); };
  const auto vector = [&](const char* name, int size) { return vector_of(layer, name, size); };
  const auto of_heads = [&](const char* name, int size) { return attention == nullptr ? nullptr : vector(name, size); };
  const bool has_experts = layer.matrices.contains("router");
  require(!has_experts || shape.experts, "a layer has experts and the stage none");
  const std::optional<ExpertNorms> expert_norms = expert_norms_of(layer, hidden);
  const bool is_beside = expert_norms.has_value();
  return {attention,
          matrix("q"), matrix("k"), matrix("v"), matrix_of(layer, layer.output), matrix("q_gate"),
          vector("attn_norm", hidden), vector("mlp_norm", hidden),
          of_heads("q_norm", has_wide_norms ? q_width : dim), of_heads("k_norm", has_wide_norms ? kv_width : dim),
          of_heads("v_norm", dim), vector("post_attn_norm", hidden), vector("post_mlp_norm", hidden),
          vector("attn_norm_bias", hidden), vector("mlp_norm_bias", hidden),
          of_heads("q_bias", q_width), of_heads("k_bias", kv_width), of_heads("v_bias", kv_width),
          vector_of(layer, layer.output + "_bias", hidden), of_heads("q_gate_bias", q_width),
          vector("layer_scale", 1),
          gate_cut_of(layer),
          has_experts && !is_beside ? Mlp{} : mlp_of(layer, is_beside ? "shared_" : "", hidden),
          has_experts ? experts_of(layer, *shape.experts, hidden) : nullptr,
          expert_norms,
          recurrent_of(layer),
          layer.attention.is_none() || !shape.latent ? nullptr : latent_of(layer, *shape.latent, shape.num_heads),
          cross_of(layer, hidden), layer.has_mixer, layer.has_mlp,
          adapters_of(layer),
          shape.streams ? streams_of(layer, *shape.streams, hidden) : nullptr,
          shape.inputs ? std::optional<InputLayer>({matrix("input_gate"), matrix("input_projection"),
                                                    vector("post_input_norm", hidden)})
                       : std::nullopt};
}

// The weights beside a stage's layers, by the names of `WeightSource`.
CarriedEnds ends_of(const BoundStageLayer& weights, const StageShape& shape) {
  CarriedEnds ends{{}, {}, matrix_of(weights, "inputs_projection"),
                   shape.inputs ? vector_of(weights, "inputs_norm", shape.inputs->width) : nullptr};
  for (int stream = 1; shape.streams && stream < shape.streams->num_streams; ++stream) {
    const std::string prefix = "streams." + std::to_string(stream) + ".";
    if (const Matrix* spread = matrix_of(weights, prefix + "spread")) ends.spread.push_back(spread);
    if (const Matrix* join = matrix_of(weights, prefix + "join")) ends.join.push_back(join);
  }
  return ends;
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
               const nb::object& memories) {
  const int hidden = self.stage.shape().hidden_size;
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
  nb::gil_scoped_release released;
  self.stage.run(x.data(), step, over_memories, sum);
}

void remember(BoundStage& self, const Floats& memory, StepMetadata& step) {
  require(int64_t(memory.shape(0)) == step.num_tokens() && int64_t(memory.shape(1)) == self.stage.shape().hidden_size,
          "memory must be [rows of the step, hidden size]");
  nb::gil_scoped_release released;
  self.stage.remember(memory.data(), step);
}

void compute_logits(BoundStage& self, const Floats& x, const Rows& rows, const Vector& norm,
                    const std::optional<Vector>& norm_bias, const BoundMatrix& matrix,
                    const std::optional<Vector>& bias, float scale, float softcap, const Floats& out) {
  require(!norm_bias || norm_bias->shape(0) == norm.shape(0), "the norm's bias must have the hidden size");
  require(!bias || int64_t(bias->shape(0)) == matrix.matrix.num_outputs, "the bias must be [vocabulary]");
  require(int64_t(norm.shape(0)) == self.stage.shape().hidden_size &&
              int64_t(x.shape(1)) == self.stage.shape().carried_width(),
          "x must have the carried width, and norm the hidden size");
  require(out.shape(0) == rows.shape(0) && int64_t(out.shape(1)) == matrix.matrix.num_outputs,
          "out must be [rows, vocabulary]");
  for (size_t i = 0; i < rows.shape(0); ++i)
    require(rows.data()[i] >= 0 && size_t(rows.data()[i]) < x.shape(0), "x has no such row");
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
           "memories"_a.none() = nb::none())
      .def("remember", &remember, "memory"_a.noconvert(), "step"_a)
      .def("logits", &compute_logits, "x"_a.noconvert(), "rows"_a.noconvert(), "norm"_a.noconvert(),
           "norm_bias"_a.noconvert().none(), "head"_a, "bias"_a.noconvert().none(), "scale"_a, "softcap"_a,
           "out"_a.noconvert());
}
