// Which experts of a layer a row goes to, and with what weights.
#pragma once

#include "../../layers/args.h"

namespace shoal {

// Source: Mixtral, arXiv 2401.04088 (softmax of the chosen); DeepSeek-V3, arXiv 2412.19437, section 2.1.2 (sigmoid, a bias
// for the choice alone, groups).
struct RouterShape {
  int num_experts;
  int num_chosen;          // of each row
  int num_groups;          // of neighboring experts; 1: none
  int num_chosen_groups;   // whose experts are chosen from
  int num_group_scores;    // a group is ranked by the sum of so many of its highest
  bool has_sigmoid;        // scores are sigmoids; else a softmax over all experts
  bool is_normalized;      // the weights of a row's experts are divided by their sum
  float scale;             // factor on the weights
  // If positive, experts are chosen one after the other, each with its weight in a softmax over those left whose scores
  // lie within this share of the highest. Source: SparseMixer, arXiv 2409.12136.
  float mixer_limit = 0.0f;
};

constexpr int kMaxExperts = 4096;
constexpr int kMaxChosen = 64;

// Throws std::invalid_argument for impossible values.
void check_router(const RouterShape& shape);

// `logits` [num_experts] become scores. `ranks` [num_experts] is working memory. Writes [num_chosen] experts, the
// highest rank first and of equal ones the first, and their weights. The same on every instruction set; the experts are
// always different ones, even for NaN.
void choose_experts(const RouterShape& shape, const LayerKernel& kernel, const float* selection_bias, float* logits,
                    float* ranks, int* experts, float* weights);

}  // namespace shoal
