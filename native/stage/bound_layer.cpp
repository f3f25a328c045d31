#include "bound_layer.h"

#include <nanobind/ndarray.h>

#include <memory>
#include <stdexcept>
#include <utility>

#include "../attention/bound_layer.h"
#include "../gemm/bound_matrix.h"
#include "../recurrence/bound_layer.h"
#include "../require.h"

namespace nb = nanobind;

namespace shoal {
namespace {

using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

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

}  // namespace

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

}  // namespace shoal
