// Runs the layers of a stage, or of a shard of one, over a step's rows: one call for each step, with nothing but
// arithmetic inside.
//
// Shapes: T rows of the step, D hidden size, I columns of the MLP, W values of a row that stages pass on; a shard has
// its own counts of heads and columns.
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
  bool joins_qk_norm;  // the norms of queries and of keys are over all heads at once
  bool parts_qk_norm;  // every query head and key head has a norm's weights of its own
  bool centers_norms;  // norms subtract the mean
  bool is_parallel;    // attention and MLP read the same rows
  std::optional<ExpertsShape> experts;  // of layers that have some
  std::optional<LatentShape> latent;    // of all layers, whose one key head has the latent rows
  std::optional<StreamsShape> streams;  // if there is more than one residual stream
  std::optional<InputsShape> inputs;    // if layers have inputs of their own, which rows carry
  int first_layer = 0;                  // number of the stage's first layer in the model, by which its input is found

  int64_t streams_width() const { return int64_t(streams ? streams->num_streams : 1) * hidden_size; }
  int64_t carried_width() const {
    return streams_width() + (inputs ? int64_t(inputs->num_layers) * inputs->width : 0);
  }
};

// What a layer has instead of attention. Its output goes through `o`.
struct RecurrentHalf {
  struct Input {
    const Matrix* matrix;
    const float* bias;  // may be nullptr
  };
  const RecurrentLayer* layer;  // nullptr in a shard without channels
  std::vector<Input> inputs;    // products of the hidden state, which lie side by side
  // If positive, its output has a norm over this many channels, some of which are on other shards.
  int norm_channels;
  float norm_epsilon;
};

// Attention over an encoder's output for a sequence's audio, after a layer's own attention, with keys and values that
// are computed once and kept. Source: Vaswani et al., arXiv 1706.03762, section 3.2.3.
struct CrossHalf {
  const AttentionLayer* attention;  // its rows see all keys of their sequence's clip
  const Matrix *q, *k, *v, *o;
  const float *norm, *norm_bias;
  const float *q_bias, *k_bias, *v_bias, *o_bias;  // may be nullptr
};

// Norms of a layer's router, experts and MLP, if each has its own.
struct ExpertNorms {
  const float *router, *experts;           // before them
  const float *post_mlp, *post_experts;    // after them
};

// Gates of an MLP become their excess over mean + a number of standard deviations, or 0. Source: Gemma 3n.
struct GateCut {
  float deviations;
  int num_columns;  // of all shards
};

// One layer's weights. Vectors that the model does not have are nullptr; so is `attention` in a shard without heads,
// and k and v if attention only reads. Without v, values are the output of k before its norm.
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
  std::shared_ptr<const ExpertLayer> experts;  // instead of the MLP, or beside it
  std::optional<ExpertNorms> expert_norms;     // of experts beside the MLP
  std::shared_ptr<const RecurrentHalf> recurrent;
  std::shared_ptr<const LatentLayer> latent;   // instead of q, k and v
  std::shared_ptr<const CrossHalf> cross;      // between attention and the MLP
  bool has_mixer, has_mlp;                     // whether the layer has this half, here or on another shard
  LayerAdapters adapters;
  std::shared_ptr<const StreamsLayer> streams;
  std::optional<InputLayer> input;

  int q_width() const { return attention == nullptr ? 0 : attention->out_width(); }
  int kv_width() const { return attention == nullptr || attention->view().only_reads ? 0 : attention->kv_width(); }
  int qkv_width() const { return attention == nullptr ? 0 : attention->qkv_width(); }
  bool has_plain_mlp() const { return has_mlp && (experts == nullptr || expert_norms.has_value()); }
};

// Turns a row of an embedding into a carried row, and a carried row into one for the head.
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
  // Throws std::invalid_argument if shapes do not fit each other. The arrays that pointers refer to must outlive the
  // stage.
  Stage(std::shared_ptr<ThreadPool> pool, const Isa& isa, const StageShape& shape, std::vector<StageLayer> layers);

  const StageShape& shape() const { return shape_; }
  // Values of one row's queries in the cross halves of all layers.
  int64_t query_width() const;
  // All layers, in place. `x` [T, W]. `sum` is empty if the stage is not sharded. `memories` describes the same rows
  // over encoder outputs if layers have a cross half; otherwise it is nullptr. `queries`: gets the queries of each
  // cross half, [layers, T, q width], before they are scaled; nullptr: not wanted. `tails`: of each sequence, how many
  // of its last rows are read afterwards [B]: the last layer then computes only keys and values for the others. Its
  // rows must be rotated by their positions. nullptr: all are read.
  void run(float* x, StepMetadata& step, StepMetadata* memories, const SumOverShards& sum, float* queries = nullptr,
           const std::vector<int32_t>* tails = nullptr);
  // Stores the keys and values of an encoder's output, `memory` [rows of the step, D], for the cross half of each
  // layer.
  void remember(const float* memory, StepMetadata& step);
  // In the model's first stage: carried rows [T, W] from the embedding [T, D] and the rows of the layer input table for
  // the tokens.
  void begin(const CarriedEnds& ends, const float* embedding, const float* looked_up, int num_rows, float* x);
  // In the model's last stage: writes the hidden state to the first D values of every row of x [T, W].
  void finish(const CarriedEnds& ends, int num_rows, float* x);
  // Rows that have chosen each expert [E] of a layer so far, whichever shard holds it; empty if a layer has none.
  const std::vector<int64_t>& expert_rows(int layer) const { return expert_rows_.at(layer); }
  // The hidden states [R, D] of R rows of `x` [T, W] after the model's last norm.
  void hidden(const float* x, const int* rows, int num_rows, const float* norm, const float* norm_bias, float* out);
  // The logits [R, vocabulary] of R rows of `x` [T, W], at most `max_rows`.
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
  // Whether the last layer reads nothing but keys and values of rows that are not read afterwards.
  bool has_plain_end() const;
  // The last layer for the last rows of sequences, but keys and values for all.
  void run_tails(float* x, StepMetadata& step, const std::vector<int32_t>& counts, const SumOverShards& sum);
  void keep_keys(const StageLayer& layer, const float* x, StepMetadata& step);
  // Adds what the step has for its rows after a layer.
  void add_to_rows(size_t index, const StepMetadata& step, float* x);
  // A layer with carried rows: `hidden` [T, D] are those that it computes.
  void run_carried(size_t index, float* x, float* hidden, StepMetadata& step, const SumOverShards& sum);
  void copy_hidden(const float* from, int64_t from_width, int num_rows, float* to, int64_t to_width);
  void recur(const StageLayer& layer, float* x, StepMetadata& step, const SumOverShards& sum);
  void add_divided(const StageLayer& layer, int num_rows, float* x, const SumOverShards& sum);
  // Sums `delta_` over the shards.
  void sum_delta(int num_rows, const SumOverShards& sum) { sum(delta_.get(), size_t(num_rows) * shape_.hidden_size); }
  void add_projected(const StageLayer& layer, const StepMetadata& step, float* x, const SumOverShards& sum);
  void attend(const StageLayer& layer, float* x, StepMetadata& step, const SumOverShards& sum);
  // A parallel layer: both of its halves, and one sum over the shards.
  void run_parallel(size_t index, float* x, StepMetadata& step, const SumOverShards& sum);
  // Attention's result, from the layer's normed rows.
  void attend_rows(const StageLayer& layer, const ActivationRows& rows, StepMetadata& step);
  void project(const Matrix& o, int num_rows, Finish finish, const float* bias, float* out,
               const StepAdapters& adapters = {});
  void check_cross(const CrossHalf& cross) const;
  void attend_memories(const CrossHalf& cross, float* x, StepMetadata& memories, float* queries);
  void feed_forward(size_t index, float* x, const StepMetadata& step, const SumOverShards& sum);
  // Experts beside an MLP, each with norms of its own.
  void feed_beside(size_t index, float* x, const StepMetadata& step, const SumOverShards& sum);
  // The norm of an MLP's result that is complete in delta_.
  void norm_delta(const float* weight, int num_rows);
  // `gates` [T, columns] of the shard, which may have no columns.
  void cut_gates(const GateCut& cut, float* gates, int num_rows, int num_columns, const SumOverShards& sum);
  // For every row, the sum of `term` of its gates, over all shards.
  template <typename Term>
  void sum_gates(const float* gates, int num_rows, int num_columns, const SumOverShards& sum, const Term& term);
  void norm_heads(const StageLayer& layer, int num_rows, bool has_queries = true);
  StepAdapters adapters_of(const StageLayer& layer, const StepMetadata& step);
  // The norm of rows of x (the named ones, or the first ones), with codes if some product reads them. Without a weight
  // there is no norm.
  ActivationRows norm_rows(const float* x, const int* rows, int num_rows, const float* weight, const float* bias,
                           bool has_codes, int64_t stride = 0);
  void norm(const float* x, const float* weight, const float* bias, int width, float* to) const;
  // For a shard without heads or columns, which adds nothing to the sum.
  void add_sum_of_others(const float* bias, const float* post_norm, int num_rows, float* x, const SumOverShards& sum);
  void add_rows(const float* rows, const float* post_norm, int num_rows, float* x);
  void add_rows(const float* bias, const float* more_bias, const float* post_norm, int num_rows, float* x);
  // Whether a half of a layer adds its product directly to the residual stream.
  bool adds_plainly(const float* post_norm, const SumOverShards& sum) const {
    return !sum && post_norm == nullptr && shape_.residual_scale == 1.0f;
  }
  // Most values of a row before and after attention or its replacement.
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
