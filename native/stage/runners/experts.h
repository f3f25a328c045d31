// The experts of a layer: each row goes to a few of them, and other weights are not read.
//
// Shapes: T rows of the step, D hidden size, E experts, k of them chosen for each row.
#pragma once

#include <memory>
#include <vector>

#include "../../gemm/row_codes.h"
#include "mlp.h"
#include "router.h"

namespace shoal {

struct ExpertsShape {
  RouterShape router;
  int num_columns;         // of an expert
  int num_shared_columns;  // of the MLP that every row goes through in addition; 0: there is none
  bool scales_input = false;  // weights multiply an expert's input, instead of its output
};

// Which rows of an expert belong to a shard: those whose position in their sequence, modulo `num_turns`, is a bit of
// `turns`. If several shards hold an expert, the turns give every row to one of them, whatever other rows the step has.
struct ExpertTurns {
  int expert;
  int num_turns;  // 1 to kMaxTurns
  uint64_t turns;
};

constexpr int kMaxTurns = 64;

// One layer's weights. Vectors and matrices that the model does not have are nullptr.
struct ExpertLayer {
  const Matrix* router;  // dense [E, D]
  const float *router_bias, *selection_bias;
  const float* scales;  // [E] further factors on the experts' weights
  std::vector<Mlp> experts;     // those that the shard holds
  std::vector<ExpertTurns> own;  // which these are, ascending
  Mlp shared;                   // only where there are shared columns
  const Matrix* shared_router;  // dense [1, D]: the shared MLP's weight is a sigmoid; nullptr: it is 1
};

// Whether any product of a layer takes codes.
bool needs_codes(const ExpertLayer& layer);

class ExpertsRunner {
 public:
  // Throws std::invalid_argument if shapes do not fit each other.
  ExpertsRunner(std::shared_ptr<ThreadPool> pool, const Isa& isa, Activation activation, const ExpertsShape& shape,
                int hidden_size, int max_rows, bool exact_activations, const std::vector<const ExpertLayer*>& layers);

  // out [T, D] = the sum over a row's experts that are the shard's. `x` has its codes if the layer needs them.
  // `positions` [T] of the rows in their sequences. `counts` [E] grow by the rows that chose each expert, on any shard.
  // `routed` are the rows that the router reads, which may differ from `x`.
  void run(const ExpertLayer& layer, const ActivationRows& x, const ActivationRows& routed, const int32_t* positions,
           int64_t* counts, float* out);

 private:
  void check(const ExpertLayer& layer) const;
  void choose(const ExpertLayer& layer, const ActivationRows& routed);
  void sort_rows(const ExpertLayer& layer, int num_rows, const int32_t* positions, int64_t* counts);
  void gather(const ExpertLayer& layer, const ActivationRows& x, const ActivationRows& sorted);
  void add_shared(const ExpertLayer& layer, const ActivationRows& x, float* out);

  std::shared_ptr<ThreadPool> pool_;
  const Isa& isa_;
  ExpertsShape shape_;
  int hidden_size_;
  RowCodes codes_;
  std::unique_ptr<MlpRunner> mlps_, shared_;
  Buffer<float> logits_, ranks_;   // [T, E]
  Buffer<float> weights_;          // [T, k]
  Buffer<float> sorted_weights_;   // [T k]: of the sorted rows, where they are factors on what is read
  Buffer<int> chosen_, places_;    // [T, k]: experts, and rows among the sorted ones; -1: another shard's
  Buffer<int> tokens_;             // [T k]: the row of the step that each sorted row is
  Buffer<float> values_, sums_;    // [T k, D]
  Buffer<float> shared_weights_;   // [T]
  std::vector<int> own_of_;        // [E]: where an expert is among the layer's own ones; -1: another shard's
  std::vector<RowSpan> spans_;     // of the sorted rows, by its own expert
  std::vector<MlpRows> groups_;
};

}  // namespace shoal
