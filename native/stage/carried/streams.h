// Several residual streams, of which a layer computes one and predicts the others, and a learned residual beside
// attention. Source: Alternating Updates, Baykal et al., NeurIPS 2023; LAuReL, arXiv 2411.07501; Gemma 3n.
//
// Shapes: T rows of the step, D hidden size, S streams, R rank of the residual, W values of a carried row: the S streams
// beside each other, and what follows them.
#pragma once

#include <memory>
#include <vector>

#include "../../memory/buffer.h"
#include "row_product.h"

namespace shoal {

struct StreamsShape {
  int num_streams;
  int active;          // the stream that layers compute
  bool scales_output;  // whether the corrected stream is scaled before it is combined with the layer's input
  int rank;            // of the learned residual
};

constexpr int kMaxStreams = 16;

// One layer's weights.
struct StreamsLayer {
  const float* router;       // [S, D]
  const float* router_norm;  // [D]
  const float* prediction;   // [S, S, S]: of each stream, from each stream, by the router's outputs
  const float* correction;   // [S, S]: of each stream, by the router's outputs
  const float* scale;        // [D]
  const Matrix* down;        // [R, D]
  const Matrix* up;          // [D, R]
  const float* norm;         // [D]
};

class Streams {
 public:
  Streams(std::shared_ptr<ThreadPool> pool, const Isa& isa, const StreamsShape& shape, int hidden_size, int max_rows,
          float norm_epsilon, bool exact_activations);

  // Throws std::invalid_argument where a layer does not fit.
  void check(const StreamsLayer& layer) const;
  // The streams of an embedding [T, D]: itself, and its products with S - 1 matrices [D, D], scaled to its own
  // magnitude.
  void spread(const float* embedding, const std::vector<const Matrix*>& matrices, int num_rows, float* x,
              int64_t width);
  // The streams [T, W] as the layer's router predicts them, and the active one [T, D].
  void predict(const StreamsLayer& layer, int num_rows, float* x, int64_t width, float* active);
  // The learned residual of normed rows, which `add_residual` adds to [T, D].
  void project(const StreamsLayer& layer, const ActivationRows& normed);
  void add_residual(int num_rows, float* hidden);
  // Corrects the streams by the layer's result for the active one, which is then combined with the layer's input.
  void correct(const StreamsLayer& layer, int num_rows, float* x, int64_t width, float* active);
  // Adds [T, D] to all streams but the first.
  void add_to_others(const float* delta, int num_rows, float* x, int64_t width);
  // Replaces the first stream by the mean of itself and the others' products with S - 1 matrices [D, D], scaled to its
  // magnitude.
  void join(const std::vector<const Matrix*>& matrices, int num_rows, float* x, int64_t width);

 private:
  // The router's outputs for a row: [S] between -1 and 1.
  void route(const StreamsLayer& layer, const float* row, float* normed, float* said) const;
  void match_magnitude(const float* like, float* row) const;

  std::shared_ptr<ThreadPool> pool_;
  const Isa& isa_;
  StreamsShape shape_;
  int hidden_size_;
  float norm_epsilon_;
  RowProduct products_;
  Buffer<float> before_;             // [T, S D]
  Buffer<float> normed_, residual_;  // [T, D]
  Buffer<float> low_rank_;           // [T, R]
};

}  // namespace shoal
