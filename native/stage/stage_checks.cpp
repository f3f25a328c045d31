// Whether the weights of a layer fit each other and their stage.
#include "../require.h"
#include "layer_needs.h"
#include "stage.h"

namespace shoal {

namespace {

bool has_shape(const Matrix* matrix, int num_outputs, int num_inputs) {
  return matrix != nullptr && matrix->num_outputs == num_outputs && matrix->num_inputs == num_inputs;
}

}  // namespace

// Which products adapters may change: none of recurrences or experts, and only the last one of latent attention.
void Stage::check_adapters(const StageLayer& layer) const {
  const bool has_heads = layer.attention != nullptr, has_inputs = has_heads && !shape_.latent;
  const bool has_mlp = layer.has_plain_mlp() && layer.experts == nullptr && has_columns(layer);
  const Matrix* of[kAdapterPlaces][kAdapterParts] = {
      {has_inputs ? layer.q : nullptr, has_inputs ? layer.k : nullptr, has_inputs ? layer.v : nullptr,
       has_inputs ? layer.q_gate : nullptr},
      {has_heads ? layer.o : nullptr},
      {has_mlp ? layer.mlp.gate : nullptr, has_mlp ? layer.mlp.up : nullptr},
      {has_mlp ? layer.mlp.down : nullptr}};
  for (const LayerAdapter& adapter : layer.adapters)
    for (int place = 0; place < kAdapterPlaces; ++place)
      for (int i = 0; i < kAdapterParts; ++i) {
        const Matrix *b = adapter.groups[place].parts[i].b, *a = adapter.groups[place].a, *matrix = of[place][i];
        require(b == nullptr || (matrix != nullptr && a != nullptr && b->num_outputs == matrix->num_outputs &&
                                 a->num_inputs == matrix->num_inputs),
                "an adapter must have the inputs and outputs of the product that it is added to");
      }
}

void Stage::check(const StageLayer& layer) const {
  check_adapters(layer);
  const bool has_both = layer.has_mixer && layer.has_mlp;
  if (layer.mlp.gate != nullptr || layer.mlp.up != nullptr || layer.mlp.down != nullptr) {
    require(has_columns(layer), "down must be [hidden size, columns]");
    require(layer.mlp.down->num_inputs <= shape_.intermediate_size, "an MLP has more columns than the stage");
    check_mlp(layer.mlp, shape_.hidden_size, layer.mlp.down->num_inputs);
  }
  require(has_both || !shape_.is_parallel, "a parallel layer has both of its halves");
  require(layer.experts == nullptr || shape_.experts.has_value(), "a layer has experts and the stage none");
  require(!has_both || shape_.is_parallel || (layer.attn_norm == nullptr) == (layer.mlp_norm == nullptr),
          "a layer has both of its norms or neither");
  require(!shape_.is_parallel || (layer.post_attn_norm == nullptr && layer.post_mlp_norm == nullptr),
          "a parallel layer has no norms behind its halves");
  require((layer.streams == nullptr) == !shape_.streams, "all layers have several streams or none");
  require(layer.input.has_value() == shape_.inputs.has_value(), "all layers have inputs of their own or none");
  require(!shape_.is_parallel || shape_.carried_width() == shape_.hidden_size, "rows of a parallel layer carry no more");
  if (layer.streams != nullptr) streams_->check(*layer.streams);
  if (layer.input) inputs_->check(*layer.input);
  if (layer.has_mixer) check_mixer(layer);
}

void Stage::check_mixer(const StageLayer& layer) const {
  if (layer.cross != nullptr) check_cross(*layer.cross);
  if (layer.recurrent != nullptr) return check_recurrent(layer);
  require((layer.attention == nullptr) == (shape_.num_heads == 0), "a layer with heads needs attention");
  if (shape_.num_heads > 0) check_attention(layer);
}

void Stage::check_attention(const StageLayer& layer) const {
  const int hidden = shape_.hidden_size;
  const LayerView& view = layer.attention->view();
  require(view.num_heads == shape_.num_heads, "attention must have the stage's heads");
  require((layer.latent == nullptr) == !shape_.latent, "all layers have latent attention or none");
  require(has_shape(layer.o, hidden, result_width(layer)), "o must be [hidden size, heads x head_dim]");
  if (layer.latent != nullptr) {
    require(view.num_kv_heads == 1 && view.head_dim == shape_.latent->rotary_dim + shape_.latent->latent_dim,
            "latent attention has one key head, of the rotated part and the latent");
    require(layer.q_gate == nullptr, "latent attention has no gate");
    return latent_->check(*layer.latent);
  }
  require(has_shape(layer.q, layer.q_width(), hidden), "q must be [heads x head_dim, hidden size]");
  require(layer.q_gate == nullptr || has_shape(layer.q_gate, layer.q_width(), hidden),
          "a gate must be [heads x head_dim, hidden size]");
  if (view.only_reads) return require(layer.k == nullptr && layer.v == nullptr, "k and v are another layer's");
  require(has_shape(layer.k, layer.kv_width(), hidden) &&
              (layer.v == nullptr || has_shape(layer.v, layer.kv_width(), hidden)),
          "k and v must be [kv heads x head_dim, hidden size]");
  require((layer.q_norm == nullptr) == (layer.k_norm == nullptr), "q and k must both have a norm or neither");
}

void Stage::check_cross(const CrossHalf& cross) const {
  const int hidden = shape_.hidden_size;
  require(!shape_.is_parallel && !shape_.latent && shape_.carried_width() == hidden && shape_.residual_scale == 1.0f,
          "a layer of this kind has no attention over an encoder's output");
  require(cross.attention != nullptr && cross.norm != nullptr, "attention over an encoder's output needs its norm");
  const int q_width = cross.attention->out_width(), kv_width = cross.attention->kv_width();
  require(has_shape(cross.q, q_width, hidden) && has_shape(cross.k, kv_width, hidden) &&
              has_shape(cross.v, kv_width, hidden) && has_shape(cross.o, hidden, q_width),
          "matrices over an encoder's output must have the sizes of the layer's own attention");
  require(cross.attention->view().num_heads == shape_.num_heads && cross.attention->view().sees_all,
          "attention over an encoder's output must have the stage's heads and see all of it");
}

void Stage::check_recurrent(const StageLayer& layer) const {
  const RecurrentHalf& recurrent = *layer.recurrent;
  if (recurrent.layer == nullptr) return;
  require(!shape_.is_parallel, "a parallel layer has attention");
  int64_t width = 0;
  for (const RecurrentHalf::Input& input : recurrent.inputs) {
    require(input.matrix != nullptr && input.matrix->num_inputs == shape_.hidden_size,
            "inputs of a recurrence must be [values, hidden size]");
    width += input.matrix->num_outputs;
  }
  require(width == recurrent.layer->in_width(), "inputs of a recurrence must be as wide as it");
  require(has_shape(layer.o, shape_.hidden_size, recurrent.layer->out_width()),
          "o must be [hidden size, width of the recurrence]");
}

}  // namespace shoal
