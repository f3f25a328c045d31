// Runs the layers of a stage, or of a shard of one, over a step's rows: one call a step, nothing but arithmetic inside.
//
// Shapes: T rows of the step, D hidden size, I columns of the MLP; a shard has its own counts of heads and columns.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "../attention/layer.h"
#include "../gemm/products.h"
#include "../isa/isa.h"
#include "../memory/buffer.h"
#include "../threads/thread_pool.h"

namespace shoal {

struct StageShape {
  int hidden_size;
  int num_heads;
  int num_kv_heads;
  int head_dim;
  int intermediate_size;
  int max_rows;  // of a step
  float norm_epsilon;
  Activation activation;
  bool exact_activations;
};

// One layer's weights. Vectors that the model does not have are nullptr; so is `attention` in a shard without heads.
struct StageLayer {
  const AttentionLayer* attention;
  const Matrix *q, *k, *v, *o, *gate, *up, *down;
  const float *attn_norm, *mlp_norm, *q_norm, *k_norm, *post_attn_norm, *post_mlp_norm;
  const float *q_bias, *k_bias, *v_bias, *o_bias, *gate_bias, *up_bias, *down_bias;
};

// The end of a model.
struct StageHead {
  const float* norm;
  const Matrix* matrix;
  float softcap;  // 0: none
};

// Adds up [T, D] over the shards of a stage, in place. May throw.
using SumOverShards = std::function<void(float* values, int num_rows)>;

class Stage {
 public:
  // Throws std::invalid_argument where shapes do not fit each other. What the pointers name must outlive the stage.
  Stage(std::shared_ptr<ThreadPool> pool, const Isa& isa, const StageShape& shape, std::vector<StageLayer> layers);

  const StageShape& shape() const { return shape_; }
  // All layers, in place. `x` [T, D]. `sum` is empty where the stage is not sharded.
  void run(float* x, StepMetadata& step, const SumOverShards& sum);
  // The logits [R, vocabulary] of R rows of `x` [T, D], of which there are at most `max_rows`.
  void logits(const float* x, const int* rows, int num_rows, const StageHead& head, float* out);

 private:
  void check(const StageLayer& layer) const;
  void attend(const StageLayer& layer, float* x, StepMetadata& step, const SumOverShards& sum);
  void feed_forward(const StageLayer& layer, float* x, int num_rows, const SumOverShards& sum);
  void norm_heads(const StageLayer& layer, int num_rows);
  void norm_rows(const float* x, const int* rows, int num_rows, const float* weight, bool is_dense);
  void quantize(ActivationRows& rows, bool is_dense);
  // The product with the last matrix of half a layer, added to the residual stream.
  void add_product(const Matrix& matrix, ActivationRows& rows, const float* bias, const float* post_norm, float* x,
                   const SumOverShards& sum);
  void add_rows(const float* bias, const float* post_norm, int num_rows, float* x);
  ActivationRows rows_of(const float* values, int num_rows, int width);
  int qkv_width() const { return (shape_.num_heads + 2 * shape_.num_kv_heads) * shape_.head_dim; }
  int out_width() const { return shape_.num_heads * shape_.head_dim; }
  template <typename Work>
  void each_rows(int num_rows, int width, const Work& work);

  std::shared_ptr<ThreadPool> pool_;
  const Isa& isa_;
  StageShape shape_;
  std::vector<StageLayer> layers_;
  int widest_;  // inputs of any product
  Buffer<float> normed_, qkv_, attention_, hidden_, up_, delta_;
  Buffer<int8_t> codes_, low_codes_;
  Buffer<float> scales_, scaled_sums_[2];
  Buffer<int32_t> sums_[2];
};

}  // namespace shoal
