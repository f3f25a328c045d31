#include "plan.h"

#include <algorithm>

namespace shoal {

namespace {

constexpr int kItemsPerThread = 4;               // the last item then delays the step by at most an eighth
constexpr int kFewRows = 8;                      // fewer take as long: the time goes into reading keys and values
constexpr int64_t kMaxParts = int64_t(1) << 17;  // 35 MB for heads of 64; rows beyond are not shared out

struct Tile {
  Span span;
  int64_t work;
};

int end_seen(const RowRange& rows, const StepArrays& step, const Sharing& sharing) {
  if (!step.ends_seen.empty()) return step.ends_seen[rows.first_row + rows.num_rows - 1];
  return sharing.sees_all ? step.context_lens[rows.sequence] : step.positions[rows.first_row] + rows.num_rows;
}

Tile whole_tile(const RowRange& rows, const StepArrays& step, const Sharing& sharing) {
  const int first_position = step.positions[rows.first_row], end = end_seen(rows, step, sharing);
  const int first = sharing.window > 0 ? std::max(0, first_position + 1 - sharing.window) : 0;
  const Span span{rows, first / kSegmentKeys, (end - 1) / kSegmentKeys + 1, kAlone};
  const int64_t num_keys = end - first;
  return {span, num_keys * std::max(rows.num_rows * sharing.group, kFewRows)};
}

// Segments that an item may take of a tile.
int share_of(const Tile& tile, double work_per_item) {
  const int segments = tile.span.end_segment - tile.span.first_segment;
  return std::max(1, int(double(segments) * std::min(1.0, work_per_item / double(tile.work))));
}

void cut(const Tile& tile, int share, const Sharing& sharing, Plan& plan) {
  Span whole = tile.span;
  const int64_t parts = int64_t(whole.rows.num_rows) * sharing.group * sharing.num_kv_heads;
  whole.first_part = plan.num_parts;
  plan.num_parts += parts * (whole.end_segment - whole.first_segment);
  plan.merges.push_back(whole);
  for (int first = whole.first_segment; first < whole.end_segment; first += share)
    plan.spans.push_back({whole.rows, first, std::min(first + share, whole.end_segment),
                          whole.first_part + parts * (first - whole.first_segment)});
}

bool fits(const Tile& tile, const Sharing& sharing, const Plan& plan) {
  const int64_t segments = tile.span.end_segment - tile.span.first_segment;
  return plan.num_parts + segments * tile.span.rows.num_rows * sharing.group * sharing.num_kv_heads <= kMaxParts;
}

}  // namespace

Plan make_plan(const std::vector<RowRange>& ranges, const StepArrays& step, const Sharing& sharing) {
  std::vector<Tile> tiles;
  int64_t work = 0;
  for (const RowRange& range : ranges) {
    tiles.push_back(whole_tile(range, step, sharing));
    work += tiles.back().work;
  }
  std::stable_sort(tiles.begin(), tiles.end(), [](const Tile& a, const Tile& b) { return a.work > b.work; });
  const double per_item = double(work) * sharing.num_kv_heads / (sharing.num_threads * kItemsPerThread);
  Plan plan;
  for (const Tile& tile : tiles) {
    const int share = share_of(tile, per_item);
    const bool is_whole = sharing.num_threads == 1 || share >= tile.span.end_segment - tile.span.first_segment;
    if (is_whole || !fits(tile, sharing, plan)) {
      plan.spans.push_back(tile.span);
    } else {
      cut(tile, share, sharing, plan);
    }
  }
  return plan;
}

}  // namespace shoal
