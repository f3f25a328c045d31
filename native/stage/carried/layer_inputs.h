// A small embedding of the token for each layer, which gates the layer's output. Source: Gemma 3n and Gemma 4.
//
// Shapes: T rows of the step, D hidden size, L layers of the model, P values of a layer's input, W values of a carried
// row, in which the L inputs lie beside each other.
#pragma once

#include <memory>

#include "../../memory/buffer.h"
#include "row_product.h"

namespace shoal {

struct InputsShape {
  int width;       // P
  int num_layers;  // L, of the whole model
};

// One layer's weights.
struct InputLayer {
  const Matrix* gate;        // [P, D]
  const Matrix* projection;  // [D, P]
  const float* norm;         // [D]
};

class LayerInputs {
 public:
  LayerInputs(std::shared_ptr<ThreadPool> pool, const Isa& isa, const InputsShape& shape, int hidden_size, int max_rows,
              Activation activation, float norm_epsilon, bool exact_activations);

  // Throws std::invalid_argument where a layer does not fit.
  void check(const InputLayer& layer) const;
  // The inputs [T, W] of all layers from the embedding [T, D] and the table's rows for the tokens [T, L P].
  void begin(const float* embedding, const float* looked_up, const Matrix& projection, const float* norm, int num_rows,
             float* inputs, int64_t width);
  // What a layer's input adds to its output [T, D]: valid until the next call. `input` is that of the layer in row 0.
  const float* run(const InputLayer& layer, const float* hidden, int num_rows, const float* input, int64_t width);

 private:
  std::shared_ptr<ThreadPool> pool_;
  const Isa& isa_;
  InputsShape shape_;
  int hidden_size_;
  Activation activation_;
  float norm_epsilon_;
  RowProduct products_;
  Buffer<float> gates_;  // [T, P]
  Buffer<float> delta_;  // [T, D]
};

}  // namespace shoal
