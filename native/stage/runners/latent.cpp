#include "latent.h"

#include <algorithm>

#include "../../require.h"
#include "../../threads/each_rows.h"

namespace shoal {

namespace {

bool has_shape(const Matrix* matrix, int num_outputs, int num_inputs) {
  return matrix != nullptr && matrix->num_outputs == num_outputs && matrix->num_inputs == num_inputs;
}

}  // namespace

LatentRunner::LatentRunner(std::shared_ptr<ThreadPool> pool, const Isa& isa, const LatentShape& shape, int num_heads,
                           int hidden_size, int max_rows, bool exact_activations)
    : pool_(std::move(pool)),
      isa_(isa),
      shape_(shape),
      num_heads_(num_heads),
      hidden_size_(hidden_size),
      query_codes_(max_rows, std::max(1, shape.query_rank), exact_activations),
      head_codes_(max_rows * num_heads, std::max(shape.plain_dim, shape.latent_dim), exact_activations) {
  require(shape.query_rank >= 0 && shape.latent_dim >= 1 && shape.plain_dim >= 1 && shape.value_dim >= 1,
          "sizes of latent attention must be positive");
  require(shape.rotary_dim >= 2 && shape.rotary_dim % 2 == 0, "the rotated part must be even");
  const size_t rows = max_rows, head_rows = rows * num_heads;
  query_down_ = allocate<float>(rows * std::max(1, shape.query_rank));
  queries_ = allocate<float>(head_rows * query_dim());
  latents_ = allocate<float>(rows * key_dim());
  heads_ = allocate<float>(head_rows * std::max(shape.plain_dim, shape.latent_dim));
  carried_ = allocate<float>(head_rows * std::max(shape.latent_dim, shape.value_dim));
  results_ = allocate<float>(head_rows * key_dim());
  products_.reserve(num_heads);
}

void LatentRunner::check(const LatentLayer& layer) const {
  const int query_inputs = shape_.query_rank > 0 ? shape_.query_rank : hidden_size_;
  require(has_shape(layer.query, num_heads_ * query_dim(), query_inputs), "queries must be [heads x dims, inputs]");
  require(shape_.query_rank == 0 ||
              (has_shape(layer.query_down, shape_.query_rank, hidden_size_) && layer.query_norm != nullptr),
          "compressed queries need [rank, hidden size] and a norm");
  require(has_shape(layer.latent_down, shape_.latent_dim + shape_.rotary_dim, hidden_size_) &&
              layer.latent_norm != nullptr,
          "latents need [latent + rotated, hidden size] and a norm");
  require(int(layer.k_up.size()) == num_heads_ && int(layer.v_up.size()) == num_heads_,
          "every head needs a way into the latent space and out of it");
  for (int head = 0; head < num_heads_; ++head)
    require(has_shape(layer.k_up[head], shape_.latent_dim, shape_.plain_dim) &&
                has_shape(layer.v_up[head], shape_.value_dim, shape_.latent_dim),
            "a head's matrices must be [latent, plain] and [value, latent]");
}

bool LatentRunner::needs_codes(const LatentLayer& layer) {
  const Matrix* first = layer.query_down != nullptr ? layer.query_down : layer.query;
  return !is_dense(*first) || !is_dense(*layer.latent_down);
}

void LatentRunner::run(const LatentLayer& layer, const AttentionLayer& attention, const ActivationRows& rows,
                       StepMetadata& step, float* qkv, float* out) {
  const int num_rows = rows.num_rows, heads = num_heads_, dim = key_dim(), latent = shape_.latent_dim;
  const int rotary = shape_.rotary_dim, value = shape_.value_dim, width = qkv_width();
  project(layer, rows);
  assemble(layer, num_rows, qkv);
  multiply_heads(layer.k_up, num_rows);
  each_rows(*pool_, num_rows, heads * latent, [&](int row) {
    for (int head = 0; head < heads; ++head)
      std::copy_n(carried_.get() + (int64_t(head) * num_rows + row) * latent, latent,
                  qkv + int64_t(row) * width + head * dim + rotary);
  });
  attention.run(attention.prepare(step), {qkv, results_.get(), width, heads * dim});
  each_rows(*pool_, num_rows, heads * latent, [&](int row) {
    for (int head = 0; head < heads; ++head)
      std::copy_n(results_.get() + (int64_t(row) * heads + head) * dim + rotary, latent,
                  heads_.get() + (int64_t(head) * num_rows + row) * latent);
  });
  multiply_heads(layer.v_up, num_rows);
  each_rows(*pool_, num_rows, heads * value, [&](int row) {
    for (int head = 0; head < heads; ++head)
      std::copy_n(carried_.get() + (int64_t(head) * num_rows + row) * value, value,
                  out + (int64_t(row) * heads + head) * value);
  });
}

Product LatentRunner::product(const Matrix* matrix, float* out, int width, RowSpan rows) const {
  return {matrix, nullptr, nullptr, nullptr, Finish::kStore, Activation::kSilu, out, width, rows};
}

// Queries and latents from the hidden state.
void LatentRunner::project(const LatentLayer& layer, const ActivationRows& rows) {
  const RowSpan all{0, rows.num_rows};
  const int rank = shape_.query_rank, query_width = num_heads_ * query_dim();
  const Product latents = product(layer.latent_down, latents_.get(), key_dim(), all);
  const Product queries = product(layer.query, queries_.get(), query_width, all);
  if (rank == 0) {
    const Product both[] = {latents, queries};
    return run_products(*pool_, *isa_.gemm, rows, both, 2);
  }
  const Product both[] = {latents, product(layer.query_down, query_down_.get(), rank, all)};
  run_products(*pool_, *isa_.gemm, rows, both, 2);
  const ActivationRows compressed = query_codes_.of(query_down_.get(), rows.num_rows, rank);
  each_rows(*pool_, rows.num_rows, rank, [&](int row) {
    float* at = query_down_.get() + int64_t(row) * rank;
    isa_.layers->norm(at, layer.query_norm, shape_.norm_epsilon, rank, at);
    if (!is_dense(*layer.query)) isa_.gemm->quantize(compressed, row, 1);
  });
  run_products(*pool_, *isa_.gemm, compressed, &queries, 1);
}

// Keys and values, the rotated parts of queries, and their plain parts head by head.
void LatentRunner::assemble(const LatentLayer& layer, int num_rows, float* qkv) {
  const int dim = key_dim(), latent = shape_.latent_dim, rotary = shape_.rotary_dim, plain = shape_.plain_dim;
  each_rows(*pool_, num_rows, qkv_width(), [&](int row) {
    float *to = qkv + int64_t(row) * qkv_width(), *key = to + num_heads_ * dim;
    const float* from = latents_.get() + int64_t(row) * dim;
    turn_order(from + latent, key);
    isa_.layers->norm(from, layer.latent_norm, shape_.norm_epsilon, latent, key + rotary);
    std::copy_n(key, dim, key + dim);
    for (int head = 0; head < num_heads_; ++head) {
      const float* query = queries_.get() + (int64_t(row) * num_heads_ + head) * query_dim();
      std::copy_n(query, plain, heads_.get() + (int64_t(head) * num_rows + row) * plain);
      turn_order(query + plain, to + head * dim);
    }
  });
}

void LatentRunner::multiply_heads(const std::vector<const Matrix*>& matrices, int num_rows) {
  const int inputs = matrices[0]->num_inputs, outputs = matrices[0]->num_outputs;
  const ActivationRows rows = head_codes_.of(heads_.get(), num_heads_ * num_rows, inputs);
  if (!std::all_of(matrices.begin(), matrices.end(), [](const Matrix* matrix) { return is_dense(*matrix); }))
    each_rows(*pool_, rows.num_rows, inputs, [&](int row) { isa_.gemm->quantize(rows, row, 1); });
  products_.clear();
  for (int head = 0; head < num_heads_; ++head)
    products_.push_back(product(matrices[head], carried_.get(), outputs, {head * num_rows, num_rows}));
  run_products(*pool_, *isa_.gemm, rows, products_.data(), num_heads_);
}

// The rotated part in the order in which the halves of a head rotate together.
void LatentRunner::turn_order(const float* from, float* to) const {
  const int half = shape_.rotary_dim / 2;
  if (!shape_.is_interleaved) {
    std::copy_n(from, 2 * half, to);
    return;
  }
  for (int i = 0; i < half; ++i) {
    to[i] = from[2 * i];
    to[half + i] = from[2 * i + 1];
  }
}

}  // namespace shoal
