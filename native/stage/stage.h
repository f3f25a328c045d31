// Runs the layers of a stage, or of a shard of one, over a step's rows: one call a step, nothing but arithmetic inside.
//
// Shapes: T rows of the step, D hidden size, I columns of the MLP, W values of a row that goes from stage to stage; a
// shard has its own counts of heads and columns.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "../attention/layer.h"
#include "../gemm/products.h"
#include "../gemm/row_codes.h"
#include "../isa/isa.h"
#include "../memory/buffer.h"
#include "../recurrence/layer.h"
#include "../threads/thread_pool.h"
#include "runners/adapters.h"
#include "carried/layer_inputs.h"
#include "carried/streams.h"
#include "runners/experts.h"
#include "runners/latent.h"
#include "runners/mlp.h"

namespace shoal {

struct StageShape {
  int hidden_size;
  int num_heads;
  int intermediate_size;  // the most columns of a plain MLP
  int max_rows;           // of a step
  float norm_epsilon;
  float residual_scale;  // on what each half of a layer adds
  Activation activation;
  bool exact_activations;
  bool joins_qk_norm;  // the norms of queries and keys are over all heads at once
  bool parts_qk_norm;  // every query head and key head has a norm's weights of its own
  bool centers_norms;  // norms subtract the mean
  bool is_parallel;    // attention and MLP read the same rows
  std::optional<ExpertsShape> experts;  // of layers that have some
  std::optional<LatentShape> latent;    // of all layers, whose one key head has the latent rows
  std::optional<StreamsShape> streams;  // where there is more than one residual stream
  std::optional<InputsShape> inputs;    // where layers have inputs of their own, which rows carry
  int first_layer = 0;                  // of the model: whose input is the stage's first layer's

  int64_t streams_width() const { return int64_t(streams ? streams->num_streams : 1) * hidden_size; }
  int64_t carried_width() const {
    return streams_width() + (inputs ? int64_t(inputs->num_layers) * inputs->width : 0);
  }
};

// What a layer has in the place of attention. Its output goes through `o`.
struct RecurrentHalf {
  struct Input {
    const Matrix* matrix;
    const float* bias;  // may be nullptr
  };
  const RecurrentLayer* layer;  // nullptr in a shard without channels
  std::vector<Input> inputs;    // products of the hidden state, which lie beside each other
  // Where positive, its output has a norm over so many channels, of which other shards have some.
  int norm_channels;
  float norm_epsilon;
};

// Attention over what an encoder has made of a sequence's audio: behind a layer's own attention, with keys and values
// that are computed once and kept. Source: Vaswani et al., arXiv 1706.03762, section 3.2.3.
struct CrossHalf {
  const AttentionLayer* attention;  // its rows see all that is kept of their sequence
  const Matrix *q, *k, *v, *o;
  const float *norm, *norm_bias;
  const float *q_bias, *k_bias, *v_bias, *o_bias;  // may be nullptr
};

// Norms where a layer's router, experts and MLP beside them have one each.
struct ExpertNorms {
  const float *router, *experts;           // before them
  const float *post_mlp, *post_experts;    // behind them
};

// Gates of an MLP are what lies above their mean by so many standard deviations, else 0. Source: Gemma 3n.
struct GateCut {
  float deviations;
  int num_columns;  // of all shards
};

// One layer's weights. Vectors that the model does not have are nullptr; so is `attention` in a shard without heads, and
// k and v where attention only reads. Without v, values are what k gives, before its norm.
struct StageLayer {
  const AttentionLayer* attention;
  const Matrix *q, *k, *v, *o;
  const Matrix* q_gate;  // attention's result is multiplied by its sigmoid
  const float *attn_norm, *mlp_norm, *q_norm, *k_norm, *v_norm, *post_attn_norm, *post_mlp_norm;
  const float *attn_norm_bias, *mlp_norm_bias;
  const float *q_bias, *k_bias, *v_bias, *o_bias, *q_gate_bias;
  const float* scale;  // [1] a factor on the layer's output
  std::optional<GateCut> gate_cut;
  Mlp mlp;
  std::shared_ptr<const ExpertLayer> experts;  // in the place of the MLP, or beside it
  std::optional<ExpertNorms> expert_norms;     // of experts beside the MLP
  std::shared_ptr<const RecurrentHalf> recurrent;
  std::shared_ptr<const LatentLayer> latent;   // in the place of q, k and v
  std::shared_ptr<const CrossHalf> cross;      // between attention and the MLP
  bool has_mixer, has_mlp;                     // whether it has the half, here or on another shard
  LayerAdapters adapters;
  std::shared_ptr<const StreamsLayer> streams;
  std::optional<InputLayer> input;

  int q_width() const { return attention == nullptr ? 0 : attention->out_width(); }
  int kv_width() const { return attention == nullptr || attention->view().only_reads ? 0 : attention->kv_width(); }
  int qkv_width() const { return attention == nullptr ? 0 : attention->qkv_width(); }
  bool has_plain_mlp() const { return has_mlp && (experts == nullptr || expert_norms.has_value()); }
};

// What makes a row of an embedding one that is carried, and of such a row one that the head takes.
struct CarriedEnds {
  std::vector<const Matrix*> spread, join;  // of all streams but the first
  const Matrix* inputs_projection;
  const float* inputs_norm;
};

// The end of a model.
struct StageHead {
  const float *norm, *norm_bias;
  const Matrix* matrix;
  const float* bias;
  float scale;    // on the logits
  float softcap;  // after it; 0: none
};

// Adds up values over the shards of a stage, in place. May throw.
using SumOverShards = std::function<void(float* values, size_t count)>;

class Stage {
 public:
  // Throws std::invalid_argument where shapes do not fit each other. What the pointers name must outlive the stage.
  Stage(std::shared_ptr<ThreadPool> pool, const Isa& isa, const StageShape& shape, std::vector<StageLayer> layers);

  const StageShape& shape() const { return shape_; }
  // Values that the cross halves of all layers ask with, of one row.
  int64_t query_width() const;
  // All layers, in place. `x` [T, W]. `sum` is empty where the stage is not sharded. `memories` describes the same rows
  // over what encoders gave, where layers have a cross half; else it is nullptr.
  // `queries`: takes what each cross half asks of an encoder's output, [layers, T, q width], before it is scaled; nullptr:
  // nothing.
  // `tails`: of each sequence, how many of its last rows are read afterwards [B]: the last layer then gives nothing but
  // keys and values of the others. Its rows must turn by their positions. nullptr: all are read.
  void run(float* x, StepMetadata& step, StepMetadata* memories, const SumOverShards& sum, float* queries = nullptr,
           const std::vector<int32_t>* tails = nullptr);
  // Keeps the keys and values of what an encoder gave, `memory` [rows of the step, D], for the cross half of each layer.
  void remember(const float* memory, StepMetadata& step);
  // Of the model's first stage: what is carried [T, W], of the embedding [T, D] and what the table of layers' inputs has of
  // the tokens.
  void begin(const CarriedEnds& ends, const float* embedding, const float* looked_up, int num_rows, float* x);
  // Of its last stage: the hidden state in the first D values of every row of x [T, W].
  void finish(const CarriedEnds& ends, int num_rows, float* x);
  // Rows that chose each expert [E] of a layer so far, whichever shard has it; empty where a layer has none.
  const std::vector<int64_t>& expert_rows(int layer) const { return expert_rows_.at(layer); }
  // The hidden states [R, D] of R rows of `x` [T, W] behind the model's last norm.
  void hidden(const float* x, const int* rows, int num_rows, const float* norm, const float* norm_bias, float* out);
  // The logits [R, vocabulary] of R rows of `x` [T, W], of which there are at most `max_rows`.
  void logits(const float* x, const int* rows, int num_rows, const StageHead& head, float* out);

 private:
  void check(const StageLayer& layer) const;
  void check_mixer(const StageLayer& layer) const;
  void check_attention(const StageLayer& layer) const;
  void check_recurrent(const StageLayer& layer) const;
  void check_adapters(const StageLayer& layer) const;
  // A layer, on rows [T, D].
  void run_layer(size_t index, float* x, StepMetadata& step, StepMetadata* memories, const SumOverShards& sum,
                 float* queries = nullptr);
  // Whether all that other rows need of the last layer's are its keys and values.
  bool has_plain_end() const;
  // The last layer for the last rows of sequences, and keys and values of all.
  void run_tails(float* x, StepMetadata& step, const std::vector<int32_t>& counts, const SumOverShards& sum);
  void keep_keys(const StageLayer& layer, const float* x, StepMetadata& step);
  // What the step has for its rows behind a layer.
  void add_to_rows(size_t index, const StepMetadata& step, float* x);
  // A layer with what rows carry: `hidden` [T, D] are those that it computes.
  void run_carried(size_t index, float* x, float* hidden, StepMetadata& step, const SumOverShards& sum);
  void copy_hidden(const float* from, int64_t from_width, int num_rows, float* to, int64_t to_width);
  void recur(const StageLayer& layer, float* x, StepMetadata& step, const SumOverShards& sum);
  void add_divided(const StageLayer& layer, int num_rows, float* x, const SumOverShards& sum);
  // Of `delta_`, over the shards.
  void sum_delta(int num_rows, const SumOverShards& sum) { sum(delta_.get(), size_t(num_rows) * shape_.hidden_size); }
  void add_projected(const StageLayer& layer, const StepMetadata& step, float* x, const SumOverShards& sum);
  void attend(const StageLayer& layer, float* x, StepMetadata& step, const SumOverShards& sum);
  // A parallel layer: both halves of it, and one sum over the shards.
  void run_parallel(size_t index, float* x, StepMetadata& step, const SumOverShards& sum);
  // Attention's result, from the norm of the layer's rows.
  void attend_rows(const StageLayer& layer, const ActivationRows& rows, StepMetadata& step);
  void project(const Matrix& o, int num_rows, Finish finish, const float* bias, float* out,
               const StepAdapters& adapters = {});
  void check_cross(const CrossHalf& cross) const;
  void attend_memories(const CrossHalf& cross, float* x, StepMetadata& memories, float* queries);
  void feed_forward(size_t index, float* x, const StepMetadata& step, const SumOverShards& sum);
  // Experts beside an MLP, each with norms of its own.
  void feed_beside(size_t index, float* x, const StepMetadata& step, const SumOverShards& sum);
  // The norm of an MLP's result that is whole in delta_.
  void norm_delta(const float* weight, int num_rows);
  // `gates` [T, columns] of the shard, which may have none.
  void cut_gates(const GateCut& cut, float* gates, int num_rows, int num_columns, const SumOverShards& sum);
  // Of every row the sum of what `term` makes of its gates, over all shards.
  template <typename Term>
  void sum_gates(const float* gates, int num_rows, int num_columns, const SumOverShards& sum, const Term& term);
  void norm_heads(const StageLayer& layer, int num_rows, bool has_queries = true);
  StepAdapters adapters_of(const StageLayer& layer, const StepMetadata& step);
  // The norm of rows of x (of those named, or the first ones), with its codes if some product takes them. Without a
  // weight there is no norm.
  ActivationRows norm_rows(const float* x, const int* rows, int num_rows, const float* weight, const float* bias,
                           bool has_codes, int64_t stride = 0);
  void norm(const float* x, const float* weight, const float* bias, int width, float* to) const;
  // Of a shard without heads or columns, which adds nothing to the sum.
  void add_sum_of_others(const float* bias, const float* post_norm, int num_rows, float* x, const SumOverShards& sum);
  void add_rows(const float* rows, const float* post_norm, int num_rows, float* x);
  void add_rows(const float* bias, const float* more_bias, const float* post_norm, int num_rows, float* x);
  // Whether a half of a layer adds its product to the residual stream as it is.
  bool adds_plainly(const float* post_norm, const SumOverShards& sum) const {
    return !sum && post_norm == nullptr && shape_.residual_scale == 1.0f;
  }
  // The most values of a row before and after attention or what stands in its place.
  int most_inputs() const;
  int most_outputs() const;
  // Inputs of `o`.
  int result_width(const StageLayer& layer) const {
    return shape_.latent ? shape_.num_heads * shape_.latent->value_dim : layer.q_width();
  }

  std::shared_ptr<ThreadPool> pool_;
  const Isa& isa_;
  StageShape shape_;
  std::vector<StageLayer> layers_;
  RowCodes codes_;
  std::unique_ptr<MlpRunner> mlps_;
  std::unique_ptr<ExpertsRunner> experts_;
  std::unique_ptr<LatentRunner> latent_;
  std::unique_ptr<AdapterRunner> adapters_;
  std::unique_ptr<Streams> streams_;
  std::unique_ptr<LayerInputs> inputs_;
  std::vector<Product> products_;  // kept, so that a step allocates nothing
  std::vector<std::vector<int64_t>> expert_rows_;  // by layer
  Buffer<float> normed_, qkv_, attention_, gates_, delta_;
  Buffer<float> hidden_;              // [T, D], where rows carry more
  Buffer<float> routed_, beside_;     // [T, D], of experts beside an MLP
  Buffer<float> statistics_;          // [T, D], of which the first value counts
  Buffer<float> means_;               // [T]
};

}  // namespace shoal
