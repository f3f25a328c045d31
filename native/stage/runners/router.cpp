#include "router.h"

#include <algorithm>
#include <limits>

#include "../../require.h"

namespace shoal {

namespace {

// The `count` highest of the values of `size` items, in order. `value` is that of an item, `is_candidate` whether it may be
// chosen. An item that is no number comes after all that were before it.
template <typename Value, typename IsCandidate>
int find_highest(int size, int count, const Value& value, const IsCandidate& is_candidate, int* found) {
  int num_found = 0;
  for (int item = 0; item < size; ++item) {
    if (!is_candidate(item)) continue;
    int at = num_found;
    for (const float own = value(item); at > 0 && own > value(found[at - 1]); --at) {
    }
    if (at == count) continue;
    num_found = std::min(num_found + 1, count);
    std::copy_backward(found + at, found + num_found - 1, found + num_found);
    found[at] = item;
  }
  return num_found;
}

constexpr auto kAll = [](int) { return true; };

// The sum of the highest ranks of a group.
float group_score(const RouterShape& shape, const float* ranks, int group) {
  const int size = shape.num_experts / shape.num_groups;
  const float* own = ranks + group * size;
  int highest[kMaxChosen];
  const int count = find_highest(size, shape.num_group_scores, [own](int i) { return own[i]; }, kAll, highest);
  float sum = 0.0f;
  for (int i = 0; i < count; ++i) sum += own[highest[i]];
  return sum;
}

// Marks the experts of groups that were not chosen.
void choose_groups(const RouterShape& shape, const float* ranks, bool* is_chosen) {
  float scores[kMaxChosen];
  int groups[kMaxChosen];
  for (int group = 0; group < shape.num_groups; ++group) scores[group] = group_score(shape, ranks, group);
  const int count =
      find_highest(shape.num_groups, shape.num_chosen_groups, [&](int i) { return scores[i]; }, kAll, groups);
  std::fill_n(is_chosen, shape.num_groups, false);
  for (int i = 0; i < count; ++i) is_chosen[groups[i]] = true;
}

// Of the experts in `ranks` that are not lower than all: the highest of `logits`, and its weight.
void choose_mixed(const RouterShape& shape, const LayerKernel& kernel, const float* logits, float* ranks, int* experts,
                  float* weights) {
  constexpr float kLowest = -1e30f;
  for (int i = 0; i < shape.num_chosen; ++i) {
    const auto is_left = [&](int expert) { return std::find(experts, experts + i, expert) == experts + i; };
    find_highest(shape.num_experts, 1, [logits](int expert) { return logits[expert]; }, is_left, experts + i);
    const float best = logits[experts[i]];
    for (int expert = 0; expert < shape.num_experts; ++expert) {
      const float own = logits[expert], size = std::max(own < 0.0f ? -own : own, best);
      const bool is_far = (best - own) / size > shape.mixer_limit;
      ranks[expert] = is_far || !is_left(expert) ? kLowest : own;
    }
    kernel.softmax(shape.num_experts, ranks);
    weights[i] = ranks[experts[i]] * shape.scale;
  }
}

}  // namespace

void check_router(const RouterShape& shape) {
  require(shape.num_experts >= 1 && shape.num_experts <= kMaxExperts, "a layer has between 1 and 4096 experts");
  require(shape.num_groups >= 1 && shape.num_groups <= kMaxChosen && shape.num_experts % shape.num_groups == 0,
          "experts must divide into at most 64 groups of one size");
  require(shape.num_chosen_groups >= 1 && shape.num_chosen_groups <= shape.num_groups,
          "at least one group must be chosen, and no more than there are");
  const int size = shape.num_experts / shape.num_groups;
  require(shape.num_group_scores >= 1 && shape.num_group_scores <= std::min(size, kMaxChosen),
          "a group is ranked by one of its experts at least, and no more than it has");
  require(shape.num_chosen >= 1 && shape.num_chosen <= std::min(shape.num_chosen_groups * size, kMaxChosen),
          "a row goes to one expert at least, and no more than 64 or than its groups have");
}

void choose_experts(const RouterShape& shape, const LayerKernel& kernel, const float* selection_bias, float* logits,
                    float* ranks, int* experts, float* weights) {
  if (shape.mixer_limit > 0.0f) return choose_mixed(shape, kernel, logits, ranks, experts, weights);
  if (shape.has_sigmoid) {
    kernel.sigmoid(shape.num_experts, logits);
  } else {
    kernel.softmax(shape.num_experts, logits);
  }
  std::copy_n(logits, shape.num_experts, ranks);
  if (selection_bias != nullptr) kernel.add(selection_bias, nullptr, shape.num_experts, ranks);
  const auto rank = [ranks](int expert) { return ranks[expert]; };
  if (shape.num_chosen_groups < shape.num_groups) {
    bool is_chosen[kMaxChosen];
    choose_groups(shape, ranks, is_chosen);
    const int size = shape.num_experts / shape.num_groups;
    find_highest(shape.num_experts, shape.num_chosen, rank, [&](int i) { return is_chosen[i / size]; }, experts);
  } else {
    find_highest(shape.num_experts, shape.num_chosen, rank, kAll, experts);
  }
  float sum = 0.0f;
  for (int i = 0; i < shape.num_chosen; ++i) sum += weights[i] = logits[experts[i]];
  const float factor = shape.is_normalized ? shape.scale / sum : shape.scale;
  for (int i = 0; i < shape.num_chosen; ++i) weights[i] *= factor;
}

}  // namespace shoal
