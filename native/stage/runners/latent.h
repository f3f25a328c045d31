// Latent attention: the keys and values of all heads are one compressed row for each token. Source: DeepSeek-V2, arXiv
// 2405.04434, section 2.1.
//
// Computed in its absorbed form, for prompts and outputs alike: each head's query is projected to the latent space,
// where all of them attend over one key head, [rotated part, latent], whose values are the same rows; each head's
// result is projected back. So the cache holds only compressed rows, and a row's bits do not depend on how a prompt is
// cut.
//
// Shapes: T rows of the step, H heads, R dimensions that rotate, N those that do not, L of the latent, V of a value.
#pragma once

#include <memory>
#include <vector>

#include "../../attention/layer.h"
#include "../../gemm/products.h"
#include "../../gemm/row_codes.h"
#include "../../isa/isa.h"
#include "../../memory/buffer.h"
#include "../../threads/thread_pool.h"

namespace shoal {

struct LatentShape {
  int query_rank;  // of compressed queries; 0: queries are computed directly from the hidden state
  int latent_dim;  // L
  int plain_dim;   // N
  int rotary_dim;  // R
  int value_dim;   // V
  float norm_epsilon;
  bool is_interleaved;  // neighboring dimensions rotate together in the weights
};

// One layer's weights.
struct LatentLayer {
  const Matrix* query_down;        // [query rank, hidden size]; nullptr if there is no rank
  const float* query_norm;         // [query rank]
  const Matrix* query;             // [H (N + R), query rank or hidden size], each head's N before its R
  const Matrix* latent_down;       // [L + R, hidden size]
  const float* latent_norm;        // [L]
  std::vector<const Matrix*> k_up; // [H] of [L, N]: from a head's query into the latent space
  std::vector<const Matrix*> v_up; // [H] of [V, L]: out of it
};

class LatentRunner {
 public:
  LatentRunner(std::shared_ptr<ThreadPool> pool, const Isa& isa, const LatentShape& shape, int num_heads,
               int hidden_size, int max_rows, bool exact_activations);

  // Throws std::invalid_argument where a layer does not fit.
  void check(const LatentLayer& layer) const;
  // Whether the hidden state needs codes for a layer's first products.
  static bool needs_codes(const LatentLayer& layer);
  // Attention's result [T, H V] from the norm of the layer's rows. `qkv` is memory for [T, (H + 2) (R + L)].
  void run(const LatentLayer& layer, const AttentionLayer& attention, const ActivationRows& rows, StepMetadata& step,
           float* qkv, float* out);

 private:
  int key_dim() const { return shape_.rotary_dim + shape_.latent_dim; }
  int query_dim() const { return shape_.plain_dim + shape_.rotary_dim; }
  int qkv_width() const { return (num_heads_ + 2) * key_dim(); }
  Product product(const Matrix* matrix, float* out, int width, RowSpan rows) const;
  void project(const LatentLayer& layer, const ActivationRows& rows);
  void assemble(const LatentLayer& layer, int num_rows, float* qkv);
  // One matrix for each head over the rows of heads_, which are stored head by head: [H T, inputs] to [H T, outputs].
  void multiply_heads(const std::vector<const Matrix*>& matrices, int num_rows);
  void turn_order(const float* from, float* to) const;

  std::shared_ptr<ThreadPool> pool_;
  const Isa& isa_;
  LatentShape shape_;
  int num_heads_, hidden_size_;
  RowCodes query_codes_, head_codes_;
  Buffer<float> query_down_, queries_, latents_, heads_, carried_, results_;
  std::vector<Product> products_;  // kept, so that a step allocates nothing
};

}  // namespace shoal
