// How the attention of a step is cut into items for threads.
#pragma once

#include <cstdint>
#include <tuple>
#include <vector>

#include "args.h"
#include "step_arrays.h"

namespace shoal {

// What a plan depends on besides the step.
struct Sharing {
  int tile_tokens;  // most rows of one sequence in an item
  int window;
  int num_kv_heads;
  int group;        // query heads of a kv head
  int num_threads;  // 1: rows are never divided
  bool sees_all;    // rows see their whole context

  bool operator<(const Sharing& other) const { return key() < other.key(); }
  std::tuple<int, int, int, int, int, bool> key() const {
    return {tile_tokens, window, num_kv_heads, group, num_threads, sees_all};
  }
};

// Items are spans times kv heads, most work first.
struct Plan {
  std::vector<Span> spans;
  std::vector<Span> merges;  // the spans that were cut, whole
  int64_t num_parts = 0;
};

// Cuts ranges of rows along their context if one would keep a thread busy after the others have finished.
Plan make_plan(const std::vector<RowRange>& tiles, const StepArrays& step, const Sharing& sharing);

}  // namespace shoal
